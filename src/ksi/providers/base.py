"""The protocol that every provider speaks: requests made of messages and parts, answers made of typed chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, Protocol

import msgspec

from ksi.core.errors import ProviderInvalidRequestError
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the plain values below."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of the parts of a message."""


class TextPart(Part, frozen=True, kw_only=True, tag="text"):
    text: str


class FilePart(Part, frozen=True, kw_only=True, tag="file"):
    """An image or file by reference: ``uri`` is one that the provider can read (``https:`` or ``data:``)."""

    uri: str
    media_type: str


class ToolCallPart(Part, frozen=True, kw_only=True, tag="tool_call"):
    """A tool call that the model asked for."""

    id: str
    name: str
    arguments: dict[str, Any]


class ToolResultPart(Part, frozen=True, kw_only=True, tag="tool_result"):
    """What the tool call ``id`` gave."""

    id: str
    content: str
    is_error: bool = False


AnyPart = TextPart | FilePart | ToolCallPart | ToolResultPart


class Message(Value, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[AnyPart, ...]


class Tool(Value, frozen=True, kw_only=True):
    """A tool that the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class CompletionRequest(Value, frozen=True, kw_only=True):
    """What a model is asked.

    ``max_tokens``, ``temperature`` and ``seed`` fall to the provider's own defaults when they are None.
    ``continue_text`` is the answer so far: the provider goes on behind it and does not repeat it; only where
    ``capabilities.continues``. ``response_schema`` (a JSON schema) needs ``capabilities.structured``.
    """

    messages: tuple[Message, ...]
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    continue_text: str | None = None
    response_schema: dict[str, Any] | None = None
    tools: tuple[Tool, ...] = ()


class Capabilities(Value, frozen=True, kw_only=True):
    """What a provider can do; ``context_window`` in tokens, None where it depends on the model."""

    continues: bool = False
    structured: bool = False
    tools: bool = False
    context_window: int | None = None


class ModelInfo(Value, frozen=True, kw_only=True):
    """A model that can be asked for; ``sha256`` (hex) is that of its file, where there is one here."""

    name: str
    provider: str
    sha256: str | None = None
    size_bytes: int | None = None
    context_window: int | None = None


class Usage(Value, frozen=True, kw_only=True):
    """Tokens read and written; ``estimated`` where the provider did not say, as after a cancel."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of what a stream yields."""


class TextDelta(Chunk, frozen=True, kw_only=True, tag="text_delta"):
    """The next piece of text: one token, for providers that send each by itself."""

    text: str


class ToolCallDelta(Chunk, frozen=True, kw_only=True, tag="tool_call_delta"):
    """A piece of the tool call number ``index``: ``id`` and ``name`` come once, ``arguments`` is a piece of JSON."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Counted(Chunk, frozen=True, kw_only=True, tag="counted"):
    """What was used up to here, by the provider's own count: of those that say so while they write."""

    usage: Usage


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]


class Finished(Chunk, frozen=True, kw_only=True, tag="finished"):
    """The last chunk. ``provider`` and ``model`` say who really answered."""

    reason: FinishReason
    usage: Usage
    provider: str
    model: str


AnyChunk = TextDelta | ToolCallDelta | Counted | Finished


class Provider(Protocol):
    """Where completions come from. A provider never retries: whoever calls it does, or budgets and replay lie."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Get ready. May be left out: the first use does it too."""

    async def aclose(self) -> None:
        """Let go of sockets and processes. Streams that still run end with an error."""

    async def models(self) -> list[ModelInfo]:
        """The models that ``CompletionRequest.model`` may name."""

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        """The answer as it comes; :class:`Finished` is last.

        ``aclose()`` of the generator, or a cancel of the task that awaits it, stops the work at the provider too.

        Raises:
            ProviderError: One of its children; also after some chunks.
            NotFoundError: The provider has no such model, or no recorded answer.
        """


def require(request: CompletionRequest, capabilities: Capabilities, *, provider: str) -> None:
    """Refuse what the provider can not do, before anything is sent.

    Raises:
        ProviderInvalidRequestError: The request needs a capability that is not there.
    """
    wanted = {
        "continues": request.continue_text is not None,
        "structured": request.response_schema is not None,
        "tools": bool(request.tools),
    }
    for capability, is_wanted in wanted.items():
        if is_wanted and not getattr(capabilities, capability):
            raise ProviderInvalidRequestError(f"has not the capability {capability!r}", provider=provider)


# English text in common vocabularies: about four characters to a token.
CHARACTERS_PER_TOKEN = 4


def estimate_usage(request: CompletionRequest, *, output_tokens: int) -> Usage:
    """Usage of an answer that ended before its provider said it; ``output_tokens`` counts the deltas that came."""
    texts = [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]
    characters = sum(map(len, texts)) + len(request.continue_text or "")
    return Usage(
        input_tokens=-(-characters // CHARACTERS_PER_TOKEN),
        output_tokens=output_tokens,
        estimated=True,
    )
