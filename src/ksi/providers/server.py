"""A server of models over HTTP, whatever protocol it speaks: each failure is a typed error, and nothing is retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

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
from ksi.providers.base import ModelInfo
from ksi.providers.refusals import from_response
from ksi.providers.sse import EventTooLongError

ERROR_BODY_BYTES_MAX = 64 * 1024
MODELS_BODY_BYTES_MAX = 4 * 1024 * 1024
MODELS_TIMEOUT = 30.0


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


class Server:
    """One server, as ``provider`` knows it.

    Args:
        headers: Sent with each request: the key, for example.
        http: The client to use, which this then owns. It must not set timeouts: providers hold every limit.
    """

    def __init__(
        self, base_url: str, *, provider: str, headers: Mapping[str, str], http: httpx.AsyncClient | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._provider = provider
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **headers}
        self._http = http or httpx.AsyncClient(timeout=None)  # noqa: S113 - see above

    async def aclose(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, body: bytes | None = None, model: str = ""
    ) -> AsyncIterator[httpx.Response]:
        """The answer, its body still to come; leaving this closes the connection.

        Raises:
            ProviderError: It refuses, can not be reached, or breaks off.
            NotFoundError: It has no such model.
        """
        with self._typed_errors():
            url = self._base_url + path
            async with self._http.stream(method, url, content=body, headers=self._all_headers()) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response, model)
                yield response

    async def models(self, path: str) -> list[ModelInfo]:
        """The models that it lists at ``path``. Raises ProviderError."""
        try:
            async with asyncio.timeout(MODELS_TIMEOUT), self.open("GET", path) as response:
                body = await _read_body(response, MODELS_BODY_BYTES_MAX)
        except TimeoutError:
            raise ProviderTimeoutError("no list of models", provider=self._provider, seconds=MODELS_TIMEOUT) from None
        try:
            listed = msgspec.json.decode(body, type=_ModelList)
        except ValueError as error:
            raise ProviderBugError(f"its list of models is none: {error}", provider=self._provider) from None
        return [ModelInfo(name=model.id, provider=self._provider) for model in listed.data]

    def _all_headers(self) -> dict[str, str]:
        asked_by = event_context()
        return self._headers if asked_by is None else {**self._headers, "traceparent": asked_by.trace_context}

    async def _refusal(self, response: httpx.Response, model: str) -> KSIError:
        body = await _read_body(response, ERROR_BODY_BYTES_MAX)
        return from_response(response.status_code, response.headers, body, provider=self._provider, model=model)

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ProviderOverloadedError(f"can not be reached: {error}", provider=self._provider) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ProviderInvalidRequestError(f"its address is none: {error}", provider=self._provider) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise StreamInterruptedError(f"the connection was lost: {reason}", provider=self._provider) from error
        except (httpx.DecodingError, EventTooLongError) as error:
            raise ProviderBugError(f"its answer can not be read: {error}", provider=self._provider) from error


async def _read_body(response: httpx.Response, bytes_max: int) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > bytes_max:
            break
    return body[:bytes_max]
