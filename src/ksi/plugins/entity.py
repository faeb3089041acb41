"""Entities: one stream of the log, folded to what it says at a position."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core.errors import NotFoundError
from ksi.core.events import Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.core.views import EntityFold
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.plugins.shapes import Place, optional_position

EVENTS_MAX = 1000
"""Facts that are shown of an entity that nobody folds."""


class ShownEntity(msgspec.Struct, frozen=True):
    """``at`` is the position of the last fact that counts, ``version`` its number in the entity's stream."""

    entity: str
    at: int
    version: int
    state: Any


class Facts:
    """The fold of an entity for which no plugin has one: its last facts, and the fields that they said last."""

    def __init__(self, category: str) -> None:
        self.category = category

    def initial(self) -> dict[str, Any]:
        return {"latest": {}, "events": []}

    def apply(self, state: dict[str, Any], event: RecordedEvent) -> dict[str, Any]:
        data = event.data if isinstance(event.data, dict) else {"value": event.data}
        line = {"position": event.position, "name": event.name, "data": event.data}
        return {"latest": {**state["latest"], **data}, "events": [*state["events"], line][-EVENTS_MAX:]}


class Entity(AsyncPlugin):
    """Shows what an entity is, and what it was."""

    name = "entity"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @query(
        "entity:show",
        errors=["not_found"],
        examples=[{"entity": "state/default"}, {"entity": "conversation/c1", "at": "@1234"}],
    )
    async def show(
        self,
        entity: Annotated[str, Meta(description="name of its stream, as in conversation/c1")],
        at: Annotated[Place | None, Meta(description="as it was at this position; now where nothing is said")] = None,
    ) -> ShownEntity:
        """Show an entity: the fold of its facts, now or as it was at a position."""
        category = entity.partition("/")[0]
        fold: EntityFold[Any] = self.host.services.get(Plugins).fold_of(category) or Facts(category)
        state, last = await self._folded(entity, fold, optional_position(at))
        if last is None:
            raise NotFoundError("entity", entity)
        return ShownEntity(entity, last.position, last.version, state)

    async def _folded(
        self, entity: str, fold: EntityFold[Any], at: Position | None
    ) -> tuple[Any, RecordedEvent | None]:
        """The state, and the last fact in it."""
        state, last = fold.initial(), None
        # A fold may say that chunks belong to its entity too, as the tokens of a completion do.
        kinds = getattr(fold, "kinds", ("fact",))
        async for event in self._log.read_stream(entity):
            if at is not None and event.position > at:
                break
            if event.kind in kinds:
                state, last = fold.apply(state, event), event
        return state, last
