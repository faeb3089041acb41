"""Anthropic's ``/v1/messages``, from the side that answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ksi.core import canonical
from ksi.core.errors import UnsupportedError, ValidationError
from ksi.plugins.endpoint import parts
from ksi.plugins.endpoint.asked import Answered, Wanted, sse
from ksi.plugins.endpoint.parts import Message, Part

Json = dict[str, Any]
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


class Said(msgspec.Struct):
    role: Literal["user", "assistant"]
    content: str | list[Json]


class OfferedTool(msgspec.Struct):
    name: str
    input_schema: Json
    description: str = ""


class MessagesRequest(msgspec.Struct):
    """What is read of a request; what else is there is for other servers."""

    model: str
    messages: list[Said]
    max_tokens: int
    system: str | list[Json] | None = None
    stream: bool = False
    temperature: float | None = None
    stop_sequences: list[str] = []
    tools: list[OfferedTool] = []
    tool_choice: Json | None = None


def wanted(body: bytes) -> Wanted:
    """Raises ValidationError or UnsupportedError."""
    try:
        asked = msgspec.json.decode(body, type=MessagesRequest)
    except msgspec.DecodeError as error:
        raise ValidationError(str(error)) from None
    choice = (asked.tool_choice or {}).get("type", "auto")
    if choice not in ("auto", "none"):
        raise UnsupportedError("tools as the model chooses: nothing else is to be had here")
    system = [Message("system", [parts.text(_text(asked.system))])] if asked.system else []
    return Wanted(
        model=asked.model,
        messages=[*system, *(message for said in asked.messages for message in _messages(said))],
        is_streamed=asked.stream,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        stop=tuple(asked.stop_sequences),
        tools=tuple(
            parts.Tool(tool.name, tool.description, tool.input_schema) for tool in asked.tools if choice == "auto"
        ),
    )


def _messages(said: Said) -> list[Message]:
    """One, or two where results of tools stand in front of what the user says."""
    if isinstance(said.content, str):
        return [Message(said.role, [parts.text(said.content)])]
    results = [_result(block) for block in said.content if block.get("type") == "tool_result"]
    others = [_part(block) for block in said.content if block.get("type") != "tool_result"]
    told = [Message("tool", results)] if results else []
    return [*told, Message(said.role, others)] if others else told


def _result(block: Json) -> Part:
    said = _text(parts.content(block.get("content") or ""))
    return parts.tool_result(str(block.get("tool_use_id")), said, is_error=bool(block.get("is_error")))


def _part(block: Json) -> Part:
    match block:
        case {"type": "text", "text": str(said)}:
            return parts.text(said)
        case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": dict(arguments)}:
            return parts.tool_call(call_id, name, arguments)
        case {"type": "image", "source": {"type": "base64", "media_type": str(media), "data": str(data)}}:
            return parts.file(f"data:{media};base64,{data}", media)
        case {"type": "image", "source": {"type": "url", "url": str(uri)}}:
            return parts.file(uri, "image/*")
    raise UnsupportedError(f"a block of the type {block.get('type')!r} is not taken here")


def _text(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "".join(str(block.get("text", "")) for block in content)


class AnthropicWords:
    """Implements :class:`~ksi.plugins.endpoint.asked.Words`."""

    def __init__(self, wanted: Wanted, request_id: str, created: int) -> None:
        self._about = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": wanted.model}

    def whole(self, answered: Answered) -> Json:
        said = [parts.text(answered.text)] if answered.text else []
        content = [*said, *(_block(call, call["arguments"]) for call in answered.tool_calls)]
        return {**self._about, "content": content, **_end(answered), "usage": _usage(answered)}

    def opening(self) -> bytes:
        nothing = {"input_tokens": 0, "output_tokens": 0}
        begun: Json = {**self._about, "content": [], "stop_reason": None, "stop_sequence": None, "usage": nothing}
        return _event("message_start", message=begun) + _event(
            "content_block_start", index=0, content_block=parts.text("")
        )

    def piece(self, text: str) -> bytes:
        return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def ending(self, answered: Answered) -> bytes:
        said = [_event("content_block_stop", index=0)]
        for index, call in enumerate(answered.tool_calls, start=1):
            arguments = {"type": "input_json_delta", "partial_json": canonical.encode(call["arguments"]).decode()}
            said += [
                _event("content_block_start", index=index, content_block=_block(call, {})),
                _event("content_block_delta", index=index, delta=arguments),
                _event("content_block_stop", index=index),
            ]
        said += [_event("message_delta", delta=_end(answered), usage=_usage(answered)), _event("message_stop")]
        return b"".join(said)

    def failing(self, told: Json) -> bytes:
        return sse(told, "error")


def _event(name: str, **fields: Any) -> bytes:
    return sse({"type": name, **fields}, name)


def _block(call: Part, arguments: Json) -> Json:
    return {"type": "tool_use", "id": call["id"], "name": call["name"], "input": arguments}


def _end(answered: Answered) -> Json:
    return {"stop_reason": _REASONS.get(answered.finish_reason, "end_turn"), "stop_sequence": None}


def _usage(answered: Answered) -> Json:
    return {"input_tokens": answered.usage["input_tokens"], "output_tokens": answered.usage["output_tokens"]}
