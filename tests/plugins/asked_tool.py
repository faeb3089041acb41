"""A plugin for real daemons: a turn that calls a tool, which leaves a fact."""

from __future__ import annotations

import msgspec

from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin


@fact("tool:was_used")
class ToolWasUsed(msgspec.Struct, frozen=True):
    what: str


class AskedTool(AsyncPlugin):
    name = "asked-tool"

    @event("tool:use")
    async def use(self, what: str, context: EventContext) -> str:
        context.append("tool/hammer", ToolWasUsed(what))
        return f"used {what}"

    @event("turn:take", durability="before", on_crash="rerun")
    async def take(self, context: EventContext) -> str:
        answer: str = await context.request_as("agent:smith", "tool:use", {"what": "a hammer"}, step="tool")
        return answer
