"""KSI's requests and chunks in the words of Anthropic's ``/v1/messages``, pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ksi.core.errors import ProviderBugError, ProviderInvalidRequestError, StreamInterruptedError
from ksi.providers.base import (
    AnyChunk,
    AnyPart,
    CompletionRequest,
    FilePart,
    Finished,
    FinishReason,
    Message,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
    estimate_usage,
)
from ksi.providers.refusals import from_stream
from ksi.providers.sse import EventDecoder
from ksi.providers.timeouts import THINKING, Thinking

Json = dict[str, Any]
MAX_TOKENS = 4096
"""Where the request does not say: the protocol wants a number."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def body_of(request: CompletionRequest, *, provider: str) -> Json:
    """The body of the POST: always streamed. It has no seed, for the protocol knows none.

    Raises:
        ProviderInvalidRequestError: A part stands in a message that can not hold it.
    """
    body = {
        "model": request.model,
        "max_tokens": request.max_tokens or MAX_TOKENS,
        "system": _system(request.messages) or None,
        "messages": _messages(request.messages, provider),
        "stream": True,
        "temperature": request.temperature,
        "stop_sequences": list(request.stop) or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "output_config": _output_config(request.response_schema),
    }
    return {key: value for key, value in body.items() if value is not None}


def _system(messages: Sequence[Message]) -> str:
    """All instructions, wherever they were given: here they stand in front."""
    return "\n\n".join(
        part.text
        for message in messages
        for part in message.parts
        if message.role == "system" and isinstance(part, TextPart)
    )


def _messages(messages: Sequence[Message], provider: str) -> list[Json]:
    """Those of one side in a row become one: results of tools must stand together behind their calls."""
    lines: list[Json] = []
    for message in messages:
        blocks = [] if message.role == "system" else _blocks(message, provider)
        role = "assistant" if message.role == "assistant" else "user"
        if blocks and lines and lines[-1]["role"] == role:
            lines[-1]["content"] += blocks
        elif blocks:
            lines.append({"role": role, "content": blocks})
    return lines


def _blocks(message: Message, provider: str) -> list[Json]:
    """An empty text is refused there, and says nothing."""
    return [_block(part, message.role, provider) for part in message.parts if part != TextPart(text="")]


def _block(part: AnyPart, role: str, provider: str) -> Json:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ToolCallPart() if role == "assistant":
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
        case ToolResultPart() if role == "tool":
            result: Json = {"type": "tool_result", "tool_use_id": part.id, "content": part.content}
            return result | ({"is_error": True} if part.is_error else {})
        case FilePart() if (kind := _kind(part)) is not None:
            return {"type": kind, "source": _source(part)}
        case FilePart():
            raise ProviderInvalidRequestError("takes images and PDFs only", provider=provider)
    raise ProviderInvalidRequestError(f"a message of {role!r} holds a part of a tool", provider=provider)


def _kind(part: FilePart) -> str | None:
    if part.media_type.startswith("image/"):
        return "image"
    return "document" if part.media_type == "application/pdf" else None


def _source(part: FilePart) -> Json:
    head, _, data = part.uri.partition(";base64,")
    if data and head.startswith("data:"):
        return {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
    return {"type": "url", "url": part.uri}


def _tool(tool: Tool) -> Json:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _output_config(schema: Json | None) -> Json | None:
    return None if schema is None else {"format": {"type": "json_schema", "schema": schema}}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class SaidUsage(msgspec.Struct):
    """``input_tokens`` does not count what came out of the cache, or went into it."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def read(self) -> int | None:
        if self.input_tokens is None:
            return None
        return self.input_tokens + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)


class _Message(msgspec.Struct):
    model: str | None = None
    usage: SaidUsage = msgspec.field(default_factory=SaidUsage)


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""
    id: str | None = None
    name: str | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: SaidUsage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)
REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class MessageReader:
    """Reads the body of one answer, in pieces of any size; knows at its end how it went."""

    def __init__(self, request: CompletionRequest, *, provider: str) -> None:
        self.is_done = False
        self.reason: FinishReason | None = None
        self.deltas = 0
        self._request = request
        self._provider = provider
        self._model = request.model
        self._read_tokens: int | None = None
        self._written_tokens: int | None = None
        self._decoder = EventDecoder()

    def feed(self, piece: bytes) -> Iterator[AnyChunk | Thinking]:
        """The chunks that ``piece`` completes; those in front of a broken event still come.

        Raises:
            ProviderBugError: It is no event of the protocol.
            ProviderError: The server says what went wrong.
        """
        for data in self._decoder.feed(piece):
            chunk = self.read(data)
            if chunk is not None:
                yield chunk
            if self.is_done:
                return

    def read(self, data: bytes) -> AnyChunk | Thinking | None:
        """The chunk that one event is, where it is one; see :meth:`feed`."""
        chunk = self._chunk(self._decode(data))
        self.deltas += chunk is not None
        return chunk

    def finished(self) -> Finished:
        """The last chunk; its usage is estimated where the server gave none.

        Raises:
            StreamInterruptedError: The body ended before the answer did.
        """
        if self.reason is None:
            raise StreamInterruptedError(f"the answer ended after {self.deltas} chunks", provider=self._provider)
        return Finished(reason=self.reason, usage=self._usage(), provider=self._provider, model=self._model)

    def _usage(self) -> Usage:
        if self._read_tokens is not None and self._written_tokens is not None:
            return Usage(input_tokens=self._read_tokens, output_tokens=self._written_tokens)
        return estimate_usage(self._request, output_tokens=self.deltas)

    def _decode(self, data: bytes) -> _Event:
        try:
            return _decoder.decode(data)
        except (ValueError, RecursionError) as error:
            raise ProviderBugError(
                f"an event that is none of the protocol's: {error}", provider=self._provider
            ) from None

    def _chunk(self, event: _Event) -> AnyChunk | Thinking | None:
        """Kinds that nobody knew when this was written are passed over, as the protocol asks."""
        match event:
            case _Event(type="message_start", message=_Message() as message):
                self._model = message.model or self._model
                self._read_tokens = message.usage.read
            case _Event(type="content_block_start", content_block=_Block(type="tool_use") as block):
                return ToolCallDelta(index=event.index, id=block.id, name=block.name)
            case _Event(type="content_block_delta", delta=_Delta(type="text_delta", text=text)) if text:
                return TextDelta(text=text)
            case _Event(type="content_block_delta", delta=_Delta(type="input_json_delta", partial_json=part)) if part:
                return ToolCallDelta(index=event.index, arguments=part)
            case _Event(type="content_block_delta", delta=_Delta(type="thinking_delta")):
                return THINKING
            case _Event(type="message_delta"):
                self._end(event)
            case _Event(type="message_stop"):
                self.is_done = True
            case _Event(type="error"):
                raise from_stream(event.error, provider=self._provider, model=self._model)
        return None

    def _end(self, event: _Event) -> None:
        if event.delta is not None and event.delta.stop_reason is not None:
            self.reason = REASONS.get(event.delta.stop_reason, "stop")
        if event.usage is not None:
            self._written_tokens = event.usage.output_tokens
            self._read_tokens = event.usage.read if event.usage.read is not None else self._read_tokens
