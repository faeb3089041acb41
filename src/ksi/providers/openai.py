"""Any server that speaks OpenAI's ``/chat/completions``: OpenAI, vLLM, Ollama, OpenRouter, llama.cpp."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
import msgspec

from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo, require
from ksi.providers.openai_format import AnswerReader, body_of
from ksi.providers.server import Server
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Thinking, Timeouts, patiently

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
        http: See :class:`~ksi.providers.server.Server`.
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
        self._extra_body = dict(extra_body or {})
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._server = Server(base_url or DEFAULT_BASE_URL, provider=name, headers=headers, http=http)

    async def start(self) -> None:
        """Nothing to do: connections are made as they are needed."""

    async def aclose(self) -> None:
        await self._server.aclose()

    async def models(self) -> list[ModelInfo]:
        return await self._server.models("/models")

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk | Thinking, None]:
        require(request, self.capabilities, provider=self.name)
        reader = AnswerReader(request, provider=self.name)
        body = msgspec.json.encode(body_of(request, provider=self.name) | self._extra_body)
        async with self._server.open("POST", "/chat/completions", body=body, model=request.model) as response:
            async for piece in response.aiter_bytes():
                for chunk in reader.feed(piece):
                    yield chunk
                if reader.is_done:
                    break
        yield reader.finished()
