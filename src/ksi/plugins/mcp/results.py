"""What servers of MCP offer and answer, as KSI records it and tells it to models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import ToolFailedError

if TYPE_CHECKING:
    from mcp_types import CallToolResult, Tool

TEXT_BYTES_MAX = 64 << 10
"""Kept of what a tool says: the log has it for ever."""


class Offered(msgspec.Struct, frozen=True):
    """A tool of a server; ``name`` is ``mcp:SERVER/TOOL``, ``schema`` that of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]


class Called(msgspec.Struct, frozen=True, omit_defaults=True):
    """``text`` is what a model is told. ``structured`` is there where the tool gives a value, and a short one."""

    text: str
    structured: Any = None


def offered(server: str, tool: Tool) -> Offered:
    return Offered(f"mcp:{server}/{tool.name}", tool.description or "", dict(tool.input_schema))


def called(server: str, tool: str, result: CallToolResult) -> Called:
    """Raises ToolFailedError where the tool says that it failed."""
    text = "\n".join(_said(each) for each in result.model_dump(by_alias=True, mode="json")["content"])
    if result.is_error:
        raise ToolFailedError(_shortened(text), server=server, tool=tool)
    structured = result.structured_content
    if structured is not None and len(canonical.encode(structured)) > TEXT_BYTES_MAX:
        structured = None
    return Called(_shortened(text), structured)


def _said(block: dict[str, Any]) -> str:
    """What is no text is named: models that are told by text can not take it."""
    match block:
        case {"type": "text", "text": text}:
            return str(text)
        case {"type": "resource", "resource": {"text": text}}:
            return str(text)
        case {"type": "resource_link", "uri": uri}:
            return f"({uri})"
    kind = block.get("mimeType") or block.get("resource", {}).get("mimeType") or block["type"]
    return f"({kind}, which is no text)"


def _shortened(text: str) -> str:
    raw = text.encode()
    if len(raw) <= TEXT_BYTES_MAX:
        return text
    return f"{raw[:TEXT_BYTES_MAX].decode(errors='ignore')}… (cut: {len(raw)} bytes in all)"
