"""Entities: one stream of the log, folded to what it says at a position."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.plugins.shapes import Place, optional_position
from ksi.store.debugger import TimeTravelDebugger


class ShownEntity(msgspec.Struct, frozen=True):
    """``at`` is the position of the last fact that counts, ``version`` its number in the entity's stream."""

    entity: str
    at: int
    version: int
    state: Any


class Entity(AsyncPlugin):
    """Shows what an entity is, and what it was."""

    name = "entity"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @query(
        "entity:show",
        errors=["not_found", "beyond_head"],
        examples=[{"entity": "state/default"}, {"entity": "conversation/c1", "at": "@1234"}],
    )
    async def show(
        self,
        entity: Annotated[str, Meta(description="name of its stream, as in conversation/c1")],
        context: EventContext,
        at: Annotated[Place | None, Meta(description="as it was at this position; now where nothing is said")] = None,
    ) -> ShownEntity:
        """Show an entity: the fold of its facts, now or as it was at a position."""
        debugger = TimeTravelDebugger(self._log, self.host.services.get(Plugins).fold_of, branch=context.branch)
        found = await debugger.entity_at(entity, optional_position(at))
        return ShownEntity(entity, found.event.position, found.event.version, found.state)
