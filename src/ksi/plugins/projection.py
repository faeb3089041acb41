"""Projections: how the read models stand, what they could not take, and building them anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.errors import NotFoundError
from ksi.core.events import ParkedEvent, fact
from ksi.core.ports import EventLog
from ksi.core.views import Projections, ProjectionStatus, Rebuilt
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.shapes import Place, optional_position

Name = Annotated[str, Meta(min_length=1, description="as projection:list shows it")]
Subscriber = Annotated[str, Meta(min_length=1, description="name of a projection, or of another subscriber")]
At = Annotated[Place | None, Meta(description="the position of one of them; all where nothing is said")]
WAIT_TIMEOUT = 10.0


@fact("projection:rebuilt")
class ProjectionRebuilt(msgspec.Struct, frozen=True):
    """A read model was folded anew up to ``position``, and so many of its records were others."""

    name: str
    position: int
    added: int
    removed: int
    changed: int


class ProjectionList(msgspec.Struct, frozen=True):
    """All read models, by name."""

    projections: Sequence[ProjectionStatus]


class ParkedList(msgspec.Struct, frozen=True):
    """Events that were put aside, in order of position."""

    parked: Sequence[ParkedEvent]


class ParkedCount(msgspec.Struct, frozen=True):
    """How many parked events were asked for again, or given up."""

    events: int


class Projection(AsyncPlugin):
    """Read models, inline ones and those that are folded behind, as a whole."""

    name = "projection"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._projections = self.host.services.get(Projections)

    @query("projection:list", examples=[{}])
    async def list_projections(self) -> ProjectionList:
        """List the read models: where they stand, how far behind, and what is wrong with them."""
        return ProjectionList(sorted(await self._projections.status(), key=lambda status: status.name))

    @query(
        "projection:status",
        timeout=None,
        errors=["not_found", "timeout"],
        examples=[{"name": "state"}, {"name": "state", "position": "@1234", "timeout": 5}],
    )
    async def status(
        self,
        name: Name,
        position: Annotated[Place | None, Meta(description="wait until it stands there: whoever wrote there")] = None,
        timeout: Annotated[float, Meta(ge=0, le=3600, description="seconds to wait at most")] = WAIT_TIMEOUT,
    ) -> ProjectionStatus:
        """Say how a read model stands; with a position, when it shows all up to there."""
        place = optional_position(position)
        if place is not None:
            await self._projections.wait_for(name, place, timeout)
        return (await self._projections.status(name))[0]

    @event(
        "projection:rebuild",
        timeout=None,
        errors=["not_found", "conflict", "internal_error"],
        examples=[{"name": "state", "diff": True}],
    )
    async def rebuild(
        self,
        name: Name,
        context: EventContext,
        diff: Annotated[bool, Meta(description="only say what would be others, and leave the old one")] = False,
    ) -> Rebuilt:
        """Fold a read model anew beside the old one, compare them, and put it in the old one's place."""
        rebuilt = await self._projections.rebuild(name, swap=not diff)
        if rebuilt.swapped:
            counts = rebuilt.added, rebuilt.removed, rebuilt.changed
            context.append(f"projection/{name}", ProjectionRebuilt(name, rebuilt.position, *counts))
        return rebuilt

    @query("projection:parked", errors=["not_found"], examples=[{"name": "searches"}])
    async def parked(self, name: Subscriber) -> ParkedList:
        """List the events that a subscriber could not take, with the reason."""
        return ParkedList(await self._log.parked(await self._subscriber(name)))

    @event("projection:retry", errors=["not_found"], examples=[{"name": "searches", "position": "@1234"}])
    async def retry(self, name: Subscriber, position: At = None) -> ParkedCount:
        """Have parked events tried again; what fails again is parked again."""
        return ParkedCount(await self._log.retry_parked(await self._subscriber(name), optional_position(position)))

    @event("projection:drop", errors=["not_found"], examples=[{"name": "searches", "position": "@1234"}])
    async def drop(self, name: Subscriber, position: At = None, reason: str = "") -> ParkedCount:
        """Give parked events up: the subscriber goes without them."""
        subscriber = await self._subscriber(name)
        return ParkedCount(await self._log.drop_parked(subscriber, optional_position(position), reason=reason))

    async def _subscriber(self, name: str) -> str:
        """Under which name its parked events stand. Raises NotFoundError where nobody has it."""
        try:
            await self._projections.status(name)
        except NotFoundError:
            if await self._log.version(f"$parked/{name}"):
                return name
            raise
        return self._projections.subscriber(name)
