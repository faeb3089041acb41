"""Any server that speaks OpenAI's ``/chat/completions``: OpenAI, vLLM, Ollama, OpenRouter, llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from ksi.providers.base import Capabilities, CompletionRequest
from ksi.providers.http import HttpProvider
from ksi.providers.openai_format import AnswerReader, body_of
from ksi.providers.server import Server

DEFAULT_BASE_URL = "https://api.openai.com/v1"
CAPABILITIES = Capabilities(structured=True, tools=True)


class OpenAIProvider(HttpProvider):
    """Completions of an OpenAI-compatible server.

    Args:
        base_url: As in ``http://127.0.0.1:11434/v1``; None: OpenAI's own.
        api_key: None: no key is sent.
        name: What errors and answers call this provider.
        capabilities: What the server can do beyond text.
        extra_body: Fields of this server's own, added to each request's body.
        http: See :class:`~ksi.providers.server.Server`.
    """

    answers_at, models_at = "/chat/completions", "/models"

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
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        server = Server(base_url or DEFAULT_BASE_URL, provider=name, headers=headers, http=http)
        super().__init__(server, name=name, capabilities=capabilities)
        self._extra_body = dict(extra_body or {})

    def _body_of(self, request: CompletionRequest) -> dict[str, Any]:
        return body_of(request, provider=self.name) | self._extra_body

    def _reader_of(self, request: CompletionRequest) -> AnswerReader:
        return AnswerReader(request, provider=self.name)
