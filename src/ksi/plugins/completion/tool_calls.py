"""The tool calls of an answer, put together from their pieces."""

from __future__ import annotations

from typing import Any

from ksi.core import canonical
from ksi.core.errors import KSIError, ProviderBugError
from ksi.providers.base import ToolCallDelta, ToolCallPart


class ToolCalls:
    """What the model asks for. Its pieces are not chunks of the completion: half a call is of no use to anybody."""

    def __init__(self) -> None:
        self.deltas: list[ToolCallDelta] = []

    def add(self, delta: ToolCallDelta) -> None:
        self.deltas.append(delta)

    def whole(self, provider: str) -> tuple[ToolCallPart, ...]:
        """The calls, in order. Raises ProviderBugError where one has no name, or arguments that are no object."""
        return tuple(self._whole(index, provider) for index in sorted({delta.index for delta in self.deltas}))

    def _whole(self, index: int, provider: str) -> ToolCallPart:
        deltas = [delta for delta in self.deltas if delta.index == index]
        name = next((delta.name for delta in deltas if delta.name), None)
        call_id = next((delta.id for delta in deltas if delta.id), f"call-{index}")
        arguments = _arguments("".join(delta.arguments for delta in deltas))
        if name is None or arguments is None:
            raise ProviderBugError(f"a tool call that is none: {name}", provider=provider)
        return ToolCallPart(id=call_id, name=name, arguments=arguments)


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        arguments = canonical.decode(text.encode() or b"{}")
    except (ValueError, KSIError):
        return None
    return arguments if isinstance(arguments, dict) else None
