"""Anthropic's ``/v1/messages``, over the client that is here anyway: its package alone takes seconds to import."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import msgspec

from ksi.providers.anthropic_format import MessageReader, body_of
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo, require
from ksi.providers.server import Server
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Thinking, Timeouts, patiently

PROVIDER = "anthropic"
DEFAULT_BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
CAPABILITIES = Capabilities(structured=True, tools=True)


class AnthropicProvider:
    """Completions of Anthropic, or of a server that speaks as it does.

    Args:
        base_url: As in ``http://127.0.0.1:4000``, without ``/v1``; None: Anthropic's own.
        api_key: None: no key is sent.
        http: See :class:`~ksi.providers.server.Server`.
    """

    name = PROVIDER
    capabilities = CAPABILITIES

    def __init__(
        self, *, base_url: str | None = None, api_key: str | None = None, http: httpx.AsyncClient | None = None
    ) -> None:
        headers = {"anthropic-version": VERSION} | ({"x-api-key": api_key} if api_key else {})
        self._server = Server(base_url or DEFAULT_BASE_URL, provider=PROVIDER, headers=headers, http=http)

    async def start(self) -> None:
        """Nothing to do: connections are made as they are needed."""

    async def aclose(self) -> None:
        await self._server.aclose()

    async def models(self) -> list[ModelInfo]:
        return await self._server.models("/v1/models?limit=1000")

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk | Thinking, None]:
        require(request, self.capabilities, provider=self.name)
        reader = MessageReader(request, provider=self.name)
        body = msgspec.json.encode(body_of(request, provider=self.name))
        async with self._server.open("POST", "/v1/messages", body=body, model=request.model) as response:
            async for piece in response.aiter_bytes():
                for chunk in reader.feed(piece):
                    yield chunk
                if reader.is_done:
                    break
        yield reader.finished()
