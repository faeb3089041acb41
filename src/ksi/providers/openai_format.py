"""KSI's requests and chunks in the words of OpenAI's ``/chat/completions``, pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import ProviderBugError, ProviderInvalidRequestError, StreamInterruptedError
from ksi.providers.base import (
    AnyChunk,
    AnyPart,
    CompletionRequest,
    Counted,
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


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def body_of(request: CompletionRequest, *, provider: str) -> Json:
    """The body of the POST: always streamed, always with usage.

    Raises:
        ProviderInvalidRequestError: A part stands in a message that can not hold it.
    """
    messages = [line for message in request.messages for line in _messages(message, provider)]
    if request.continue_text is not None:
        messages.append({"role": "assistant", "content": request.continue_text})
    body = {
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop": request.stop or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "response_format": _response_format(request.response_schema),
    }
    return {key: value for key, value in body.items() if value is not None}


def _messages(message: Message, provider: str) -> list[Json]:
    results = [_tool_result(part) for part in message.parts if isinstance(part, ToolResultPart)]
    calls = [_tool_call(part) for part in message.parts if isinstance(part, ToolCallPart)]
    content = _content([part for part in message.parts if isinstance(part, TextPart | FilePart)], provider)
    if bool(results) != (message.role == "tool") or (calls and message.role != "assistant"):
        raise ProviderInvalidRequestError(f"a message of {message.role!r} holds a part of a tool", provider=provider)
    if results:
        return results
    return [{"role": message.role, "content": content} | ({"tool_calls": calls} if calls else {})]


def _content(parts: list[TextPart | FilePart], provider: str) -> str | list[Json]:
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    # Plain text where that is all: several compatible servers know nothing else.
    return "".join(texts) if len(texts) == len(parts) else [_content_part(part, provider) for part in parts]


def _content_part(part: AnyPart, provider: str) -> Json:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case FilePart() if part.media_type.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": part.uri}}
        case FilePart() if part.uri.startswith("data:"):
            return {"type": "file", "file": {"file_data": part.uri}}
    raise ProviderInvalidRequestError("takes images, and other files as data: URIs only", provider=provider)


def _tool_call(part: ToolCallPart) -> Json:
    arguments = canonical.encode(part.arguments).decode()
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": arguments}}


def _tool_result(part: ToolResultPart) -> Json:
    content = f"Error: {part.content}" if part.is_error else part.content
    return {"role": "tool", "tool_call_id": part.id, "content": content}


def _tool(tool: Tool) -> Json:
    return {"type": "function", "function": msgspec.to_builtins(tool)}


def _response_format(schema: Json | None) -> Json | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    """``reasoning`` and ``reasoning_content`` are thoughts, by the names that servers have for them."""

    content: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Timings(msgspec.Struct):
    """llama.cpp's, beside each token."""

    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    model: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)
_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class AnswerReader:
    """Reads the body of one answer, in pieces of any size; knows at its end how it went."""

    def __init__(self, request: CompletionRequest, *, provider: str) -> None:
        self.is_done = False
        self._request = request
        self._provider = provider
        self._model = request.model
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._deltas = 0
        self._decoder = EventDecoder()

    def feed(self, piece: bytes) -> Iterator[AnyChunk | Thinking]:
        """The chunks that ``piece`` completes; those in front of a broken event still come.

        Raises:
            ProviderBugError: It is no event of the protocol.
            ProviderError: The server says what went wrong.
        """
        for data in self._decoder.feed(piece):
            if data == b"[DONE]":
                self.is_done = True
                return
            for chunk in self._read(data):
                self._deltas += not isinstance(chunk, Counted)
                yield chunk

    def finished(self) -> Finished:
        """The last chunk; its usage is estimated where the server gave none.

        Raises:
            StreamInterruptedError: The body ended before the answer did.
        """
        if not self.is_done and self._reason is None:
            raise StreamInterruptedError(f"the answer ended after {self._deltas} chunks", provider=self._provider)
        return Finished(
            reason=self._reason or "stop",
            usage=self._usage or estimate_usage(self._request, output_tokens=self._deltas),
            provider=self._provider,
            model=self._model,
        )

    def _read(self, data: bytes) -> Iterator[AnyChunk | Thinking]:
        event = self._decode(data)
        if event.error is not None:
            raise from_stream(event.error, provider=self._provider, model=self._model)
        self._model = event.model or self._model
        if event.usage is not None:
            self._usage = Usage(input_tokens=event.usage.prompt_tokens, output_tokens=event.usage.completion_tokens)
        for choice in event.choices or ():
            yield from self._choice(choice)
        if event.choices and event.timings is not None and event.timings.predicted_n:
            said = event.timings
            yield Counted(usage=Usage(input_tokens=said.cache_n + said.prompt_n, output_tokens=said.predicted_n))

    def _decode(self, data: bytes) -> _Event:
        try:
            return _decoder.decode(data)
        except (ValueError, RecursionError) as error:
            raise ProviderBugError(
                f"an event that is none of the protocol's: {error}", provider=self._provider
            ) from None

    def _choice(self, choice: _Choice) -> Iterator[AnyChunk | Thinking]:
        if choice.delta.reasoning or choice.delta.reasoning_content:
            yield THINKING
        if choice.delta.content:
            yield TextDelta(text=choice.delta.content)
        for call in choice.delta.tool_calls or ():
            function = call.function
            yield ToolCallDelta(index=call.index, id=call.id, name=function.name, arguments=function.arguments or "")
        if choice.finish_reason is not None:
            self._reason = _REASONS.get(choice.finish_reason, "stop")
