"""OpenAI's ``/v1/responses``, from the side that answers."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import UnsupportedError, ValidationError
from ksi.plugins.endpoint import parts
from ksi.plugins.endpoint.asked import Answered, Wanted, sse
from ksi.plugins.endpoint.parts import Message, Part, Role

Json = dict[str, Any]
_ROLES: dict[str, Role] = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class TextOptions(msgspec.Struct):
    format: Json | None = None


class OfferedTool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: Json | None = None


class ResponseRequest(msgspec.Struct):
    """What is read of a request; what else is there is for other servers."""

    model: str
    input: str | list[Json]
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    text: TextOptions | None = None
    tools: list[OfferedTool] = []
    tool_choice: str | Json | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = False


def wanted(body: bytes) -> Wanted:
    """Raises ValidationError or UnsupportedError."""
    try:
        asked = msgspec.json.decode(body, type=ResponseRequest)
    except msgspec.DecodeError as error:
        raise ValidationError(str(error)) from None
    if asked.previous_response_id or asked.conversation or asked.background:
        raise UnsupportedError("each request brings all of its input, and is answered at once")
    if asked.tool_choice not in (None, "auto", "none"):
        raise UnsupportedError("tools as the model chooses: nothing else is to be had here")
    system = [Message("system", [parts.text(asked.instructions)])] if asked.instructions else []
    return Wanted(
        model=asked.model,
        messages=[*system, *_messages(asked.input)],
        is_streamed=bool(asked.stream),
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        tools=() if asked.tool_choice == "none" else tuple(_tool(tool) for tool in asked.tools),
        response_schema=_schema(asked.text.format if asked.text else None),
    )


def _messages(given: str | list[Json]) -> list[Message]:
    if isinstance(given, str):
        return [Message("user", [parts.text(given)])]
    messages: list[Message] = []
    for item in given:
        message = _message(item)
        if message is None:
            continue
        # Calls stand in one message with what was said before them, and so do results.
        if messages and messages[-1].role == message.role and message.role in ("assistant", "tool"):
            messages[-1].parts.extend(message.parts)
        else:
            messages.append(message)
    return messages


def _message(item: Json) -> Message | None:
    match item:
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return Message("assistant", [parts.tool_call(call_id, name, parts.arguments(arguments))])
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            return Message("tool", [parts.tool_result(call_id, _text(output))])
        case {"type": "reasoning"}:
            return None
        case {"role": str(role), "content": content} if role in _ROLES and item.get("type", "message") == "message":
            return Message(_ROLES[role], _parts(content))
    raise UnsupportedError(f"an item of the type {item.get('type')!r} is not taken here")


def _parts(given: Any) -> list[Part]:
    content = parts.content(given)
    return [parts.text(content)] if isinstance(content, str) else [_part(each) for each in content]


def _part(part: Json) -> Part:
    match part:
        case {"type": "input_text" | "output_text", "text": str(said)}:
            return parts.text(said)
        case {"type": "input_image", "image_url": str(uri)}:
            return parts.file(uri, "image/*")
    raise UnsupportedError(f"a part of the type {part.get('type')!r} is not taken here")


def _text(output: Any) -> str:
    return "".join(part.get("text", "") for part in _parts(output))


def _tool(tool: OfferedTool) -> parts.Tool:
    if tool.type != "function":
        raise UnsupportedError(f"a tool of the type {tool.type!r} is not to be had here")
    return parts.Tool(tool.name, tool.description or "", tool.parameters or {})


def _schema(form: Json | None) -> Json | None:
    match form:
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
        case {"type": "json_object"}:
            return {"type": "object"}
    return None


class ResponseWords:
    """Implements :class:`~ksi.plugins.endpoint.asked.Words`."""

    def __init__(self, wanted: Wanted, request_id: str, created: int) -> None:
        self._item = f"msg_{request_id}"
        self._numbers = count()
        self._said: list[str] = []
        self._about: Json = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": created,
            "model": wanted.model,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": wanted.max_tokens,
            "metadata": {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": wanted.temperature,
            "tool_choice": "auto",
            "tools": [{"type": "function", "strict": False, **msgspec.to_builtins(tool)} for tool in wanted.tools],
            "top_p": None,
        }

    def whole(self, answered: Answered) -> Json:
        reason = _INCOMPLETE.get(answered.finish_reason)
        message = [self._message(answered.text, "completed")] if answered.text else []
        return {
            **self._about,
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [*message, *(_said_call(call) for call in answered.tool_calls)],
            "usage": _usage(answered),
        }

    def opening(self) -> bytes:
        begun = {**self._about, "status": "in_progress", "output": [], "usage": None}
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def piece(self, text: str) -> bytes:
        opened = b"" if self._said else self._opened()
        self._said.append(text)
        return opened + self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def ending(self, answered: Answered) -> bytes:
        closed = self._closed() if self._said else b""
        calls = enumerate(answered.tool_calls, 1 if self._said else 0)
        whole = self.whole(answered)
        name = "response.incomplete" if whole["incomplete_details"] else "response.completed"
        return b"".join(
            [closed, *(self._call(index, call) for index, call in calls), self._event(name, response=whole)]
        )

    def failing(self, told: Json) -> bytes:
        error = told["error"]
        return self._event("error", code=error.get("code"), message=error.get("message"), param=None)

    def _opened(self) -> bytes:
        item = {**self._message("", "in_progress"), "content": []}
        return self._event("response.output_item.added", output_index=0, item=item) + self._event(
            "response.content_part.added", **self._place, part=_output_text("")
        )

    def _closed(self) -> bytes:
        text = "".join(self._said)
        return b"".join([
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=_output_text(text)),
            self._event("response.output_item.done", output_index=0, item=self._message(text, "completed")),
        ])  # fmt: skip

    def _call(self, index: int, call: Part) -> bytes:
        item = _said_call(call)
        place = {"output_index": index, "item_id": item["id"]}
        begun, said = {**item, "arguments": "", "status": "in_progress"}, item["arguments"]
        return b"".join([
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=said),
            self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=said),
            self._event("response.output_item.done", output_index=index, item=item),
        ])  # fmt: skip

    @property
    def _place(self) -> Json:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _message(self, text: str, status: str) -> Json:
        content = [_output_text(text)]
        return {"type": "message", "id": self._item, "status": status, "role": "assistant", "content": content}

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _said_call(call: Part) -> Json:
    return {
        "type": "function_call",
        "id": f"fc_{call['id']}",
        "call_id": call["id"],
        "name": call["name"],
        "arguments": canonical.encode(call["arguments"]).decode(),
        "status": "completed",
    }


def _usage(answered: Answered) -> Json:
    read, written = answered.usage["input_tokens"], answered.usage["output_tokens"]
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
