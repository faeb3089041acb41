"""Anthropic's ``/v1/messages``, over the client that is here anyway: its package alone takes seconds to import."""

from __future__ import annotations

from typing import Any

import httpx

from ksi.providers.anthropic_format import MessageReader, body_of
from ksi.providers.base import Capabilities, CompletionRequest
from ksi.providers.http import HttpProvider
from ksi.providers.server import Server

PROVIDER = "anthropic"
DEFAULT_BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
CAPABILITIES = Capabilities(structured=True, tools=True)


class AnthropicProvider(HttpProvider):
    """Completions of Anthropic, or of a server that speaks as it does.

    Args:
        base_url: As in ``http://127.0.0.1:4000``, without ``/v1``; None: Anthropic's own.
        api_key: None: no key is sent.
        http: See :class:`~ksi.providers.server.Server`.
    """

    answers_at, models_at = "/v1/messages", "/v1/models?limit=1000"

    def __init__(
        self, *, base_url: str | None = None, api_key: str | None = None, http: httpx.AsyncClient | None = None
    ) -> None:
        headers = {"anthropic-version": VERSION} | ({"x-api-key": api_key} if api_key else {})
        server = Server(base_url or DEFAULT_BASE_URL, provider=PROVIDER, headers=headers, http=http)
        super().__init__(server, name=PROVIDER, capabilities=CAPABILITIES)

    def _body_of(self, request: CompletionRequest) -> dict[str, Any]:
        return body_of(request, provider=self.name)

    def _reader_of(self, request: CompletionRequest) -> MessageReader:
        return MessageReader(request, provider=self.name)
