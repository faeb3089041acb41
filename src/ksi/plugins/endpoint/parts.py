"""Messages as ``completion:create`` takes them, made of what clients send."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ksi.core import canonical
from ksi.core.errors import ValidationError

Part = dict[str, Any]
"""A part of a message, tagged as :data:`ksi.providers.base.AnyPart` is."""
Role = Literal["system", "user", "assistant", "tool"]


class Message(msgspec.Struct, frozen=True):
    role: Role
    parts: list[Part]


class Tool(msgspec.Struct, frozen=True):
    name: str
    description: str
    parameters: dict[str, Any]


def content(given: Any) -> str | list[Part]:
    """What a message holds, in any of the protocols. Raises ValidationError."""
    try:
        return msgspec.convert(given, str | list[Part])
    except msgspec.ValidationError as error:
        raise ValidationError(f"a content is a text or a list of objects: {error}") from None


def text(said: str) -> Part:
    return {"type": "text", "text": said}


def file(uri: str, media_type: str) -> Part:
    return {"type": "file", "uri": uri, "media_type": media_type}


def arguments(text: str) -> dict[str, Any]:
    """Those of a tool call. Models write nothing where a tool takes none. Raises ValidationError."""
    found = canonical.decode(text.encode() or b"{}")
    if not isinstance(found, dict):
        raise ValidationError("the arguments of a tool are an object")
    return found


def tool_call(call_id: str, name: str, arguments: dict[str, Any]) -> Part:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def tool_result(call_id: str, content: str, *, is_error: bool = False) -> Part:
    return {"type": "tool_result", "id": call_id, "content": content, "is_error": is_error}
