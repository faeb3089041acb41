"""OpenAI's ``/v1/chat/completions``, from the side that answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.core import canonical
from ksi.core.errors import UnsupportedError, ValidationError
from ksi.plugins.endpoint import parts
from ksi.plugins.endpoint.asked import Answered, Wanted, sse
from ksi.plugins.endpoint.parts import Message, Part, Role

Json = dict[str, Any]
_ROLES: dict[str, Role] = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}


class Function(msgspec.Struct):
    name: str
    arguments: str = "{}"
    description: str = ""
    parameters: Json = {}


class ToolCall(msgspec.Struct):
    id: str
    function: Function


class Said(msgspec.Struct):
    """A message. ``content`` is a text, or a list of parts."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[Json] | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""


class OfferedTool(msgspec.Struct):
    function: Function


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """What is read of a request; what else is there is for other servers."""

    model: str
    messages: list[Said]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[OfferedTool] = []
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    n: Annotated[int, Meta(ge=1)] | None = None


def wanted(body: bytes) -> Wanted:
    """Raises ValidationError or UnsupportedError."""
    try:
        asked = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.DecodeError as error:
        raise ValidationError(str(error)) from None
    if asked.tool_choice not in (None, "auto", "none") or (asked.n or 1) > 1:
        raise UnsupportedError("one answer, and tools as the model chooses: nothing else is to be had here")
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    tools = [] if asked.tool_choice == "none" else asked.tools
    return Wanted(
        model=asked.model,
        messages=[_message(said) for said in asked.messages],
        is_streamed=bool(asked.stream),
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        seed=asked.seed,
        stop=tuple(stop),
        tools=tuple(
            parts.Tool(each.function.name, each.function.description, each.function.parameters) for each in tools
        ),
        response_schema=_schema(asked.response_format),
        counts=asked.stream_options is not None and asked.stream_options.include_usage,
    )


def _message(said: Said) -> Message:
    given = (
        [parts.text(said.content)] if isinstance(said.content, str) else [_part(each) for each in said.content or ()]
    )
    if said.role == "tool":
        content = "".join(part.get("text", "") for part in given)
        return Message("tool", [parts.tool_result(said.tool_call_id, content)])
    return Message(_ROLES[said.role], [*given, *(_call(call) for call in said.tool_calls)])


def _part(part: Json) -> Part:
    match part:
        case {"type": "text", "text": str(said)}:
            return parts.text(said)
        case {"type": "image_url", "image_url": {"url": str(uri)}}:
            return parts.file(uri, "image/*")
    raise UnsupportedError(f"a part of the type {part.get('type')!r} is not taken here")


def _call(call: ToolCall) -> Part:
    return parts.tool_call(call.id, call.function.name, parts.arguments(call.function.arguments))


def _schema(form: Json | None) -> Json | None:
    match form:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object"}:
            return {"type": "object"}
    return None


class OpenAIWords:
    """Implements :class:`~ksi.plugins.endpoint.asked.Words`."""

    def __init__(self, wanted: Wanted, request_id: str, created: int) -> None:
        self._wanted = wanted
        self._about = {"id": f"chatcmpl-{request_id}", "created": created, "model": wanted.model}

    def whole(self, answered: Answered) -> Json:
        message: Json = {"role": "assistant", "content": answered.text or None}
        if answered.tool_calls:
            message["tool_calls"] = [_said_call(call) for call in answered.tool_calls]
        choice = {"index": 0, "message": message, "finish_reason": answered.finish_reason, "logprobs": None}
        return {"object": "chat.completion", **self._about, "choices": [choice], "usage": _usage(answered)}

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def ending(self, answered: Answered) -> bytes:
        calls = [{"index": index, **_said_call(call)} for index, call in enumerate(answered.tool_calls)]
        said = [self._chunk({"tool_calls": calls})] if calls else []
        said.append(self._chunk({}, answered.finish_reason))
        if self._wanted.counts:
            usage = {"object": "chat.completion.chunk", **self._about, "choices": [], "usage": _usage(answered)}
            said.append(sse(usage))
        return b"".join([*said, sse(b"[DONE]")])

    def failing(self, told: Json) -> bytes:
        return sse(told)

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return sse({"object": "chat.completion.chunk", **self._about, "choices": [choice]})


def _said_call(call: Part) -> Json:
    function = {"name": call["name"], "arguments": canonical.encode(call["arguments"]).decode()}
    return {"id": call["id"], "type": "function", "function": function}


def _usage(answered: Answered) -> Json:
    read, written = answered.usage["input_tokens"], answered.usage["output_tokens"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
