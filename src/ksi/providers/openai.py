"""Any server that speaks OpenAI's ``/chat/completions``: OpenAI, vLLM, Ollama, OpenRouter, llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import msgspec

from ksi.core.context import event_context
from ksi.core.errors import (
    KSIError,
    ProviderBugError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo, require
from ksi.providers.openai_errors import from_response
from ksi.providers.openai_format import AnswerReader, body_of
from ksi.providers.sse import EventTooLongError
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts, patiently

ERROR_BODY_BYTES_MAX = 64 * 1024
MODELS_BODY_BYTES_MAX = 4 * 1024 * 1024
MODELS_TIMEOUT = 30.0
DEFAULT_BASE_URL = "https://api.openai.com/v1"
CAPABILITIES = Capabilities(structured=True, tools=True)


class OpenAIProvider:
    """Completions of an OpenAI-compatible server.

    Args:
        base_url: As in ``http://127.0.0.1:11434/v1``; None: OpenAI's own.
        api_key: None: no key is sent.
        name: What errors and answers call this provider.
        capabilities: What the server can do beyond text.
        extra_body: Fields of this server's own, added to each request's body.
        http: The client to use, which this provider then owns. It must not set timeouts: ``stream`` does.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        name: str = "openai",
        capabilities: Capabilities = CAPABILITIES,
        extra_body: Mapping[str, Any] | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self._base_url = (base_url or DEFAULT_BASE_URL).rstrip("/")
        self._api_key = api_key
        self._extra_body = dict(extra_body or {})
        self._http = http or httpx.AsyncClient(timeout=None)  # noqa: S113 - `patiently` holds every limit

    async def start(self) -> None:
        """Nothing to do: connections are made as they are needed."""

    async def aclose(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[ModelInfo]:
        try:
            async with asyncio.timeout(MODELS_TIMEOUT), self._open("GET", "/models") as response:
                body = await _read_body(response, MODELS_BODY_BYTES_MAX)
        except TimeoutError:
            raise ProviderTimeoutError("no list of models", provider=self.name, seconds=MODELS_TIMEOUT) from None
        try:
            listed = msgspec.json.decode(body, type=_ModelList)
        except ValueError as error:
            raise ProviderBugError(f"its list of models is none: {error}", provider=self.name) from None
        return [ModelInfo(name=model.id, provider=self.name) for model in listed.data]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk, None]:
        require(request, self.capabilities, provider=self.name)
        reader = AnswerReader(request, provider=self.name)
        body = msgspec.json.encode(body_of(request, provider=self.name) | self._extra_body)
        async with self._open("POST", "/chat/completions", body=body, model=request.model) as response:
            async for piece in response.aiter_bytes():
                for chunk in reader.feed(piece):
                    yield chunk
                if reader.is_done:
                    break
        yield reader.finished()

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, *, body: bytes | None = None, model: str = ""
    ) -> AsyncIterator[httpx.Response]:
        with self._typed_errors():
            url = self._base_url + path
            async with self._http.stream(method, url, content=body, headers=self._headers()) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response, model)
                yield response

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        asked_by = event_context()
        if asked_by is not None:
            headers["traceparent"] = asked_by.trace_context
        return headers | ({"authorization": f"Bearer {self._api_key}"} if self._api_key else {})

    async def _refusal(self, response: httpx.Response, model: str) -> KSIError:
        body = await _read_body(response, ERROR_BODY_BYTES_MAX)
        return from_response(response.status_code, response.headers, body, provider=self.name, model=model)

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ProviderOverloadedError(f"can not be reached: {error}", provider=self.name) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ProviderInvalidRequestError(f"its address is none: {error}", provider=self.name) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise StreamInterruptedError(f"the connection was lost: {reason}", provider=self.name) from error
        except (httpx.DecodingError, EventTooLongError) as error:
            raise ProviderBugError(f"its answer can not be read: {error}", provider=self.name) from error


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


async def _read_body(response: httpx.Response, bytes_max: int) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > bytes_max:
            break
    return body[:bytes_max]
