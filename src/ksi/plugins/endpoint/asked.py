"""What a client of a provider asks, and what is asked of KSI for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ksi.core.errors import ValidationError
from ksi.plugins.endpoint.parts import Message, Part, Tool

AGENT, DEFAULT = "agent:", "default"
MAX_TOKENS = 1024
"""Where the client does not say how much may be written."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A request, whichever protocol it came in. ``model`` is a provider's, ``agent:NAME``, or ``default``."""

    model: str
    messages: Sequence[Message]
    is_streamed: bool
    max_tokens: int | None
    temperature: float | None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    response_schema: dict[str, Any] | None = None
    counts: bool = True
    """Whether a stream is to say its usage."""

    def request(self) -> tuple[str, dict[str, Any]]:
        """The event that answers it, and its payload. Raises ValidationError."""
        if self.model.startswith(AGENT):
            return "agent:send_message", self._said_to(self.model.removeprefix(AGENT))
        said = {
            "messages": [msgspec.to_builtins(message) for message in self.messages],
            "model": None if self.model == DEFAULT else self.model,
            "max_tokens": self.max_tokens or MAX_TOKENS,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop": self.stop,
            "tools": [msgspec.to_builtins(tool) for tool in self.tools],
            "response_schema": self.response_schema,
        }
        return "completion:create", said

    def _said_to(self, agent: str) -> dict[str, Any]:
        """The end of it: what was said before stands in the agent's own conversation."""
        said = list(self.messages)
        text = _text(said.pop()) if said and said[-1].role == "user" else None
        results: list[Part] = []
        while said and said[-1].role == "tool":
            results[:0] = said.pop().parts
        if text is None and not results:
            raise ValidationError("the last message is what an agent is told: it is the user's, or a tool's")
        return {
            "agent": agent,
            "text": text,
            "results": results,
            "tools": [msgspec.to_builtins(tool) for tool in self.tools],
            "response_schema": self.response_schema,
            "max_tokens": self.max_tokens,
        }


def _text(message: Message) -> str:
    return "".join(str(part["text"]) for part in message.parts if part["type"] == "text")


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a completion or a turn, as far as a client is told of it."""

    text: str
    finish_reason: str
    usage: dict[str, Any]
    model: str | None
    completion: str | None
    tool_calls: list[Part] = []


class Words(Protocol):
    """How one protocol says it. Streams are made of whole events of SSE."""

    def whole(self, answered: Answered) -> dict[str, Any]:
        """An answer that is not streamed."""

    def opening(self) -> bytes:
        """Before the first piece."""

    def piece(self, text: str) -> bytes:
        """A piece of the text."""

    def ending(self, answered: Answered) -> bytes:
        """What is left to say, behind the last piece."""

    def failing(self, told: dict[str, Any]) -> bytes:
        """An error in the middle of an answer."""


def sse(data: Any, event: str | None = None) -> bytes:
    """An event of a stream."""
    named = b"" if event is None else b"event: %b\n" % event.encode()
    return b"%bdata: %b\n\n" % (named, data if isinstance(data, bytes) else msgspec.json.encode(data, enc_hook=str))
