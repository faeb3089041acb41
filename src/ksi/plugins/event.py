"""Subscriptions: the log from a place on, then what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.errors import ValidationError
from ksi.core.events import Filter, Kind, Position, RecordedEvent
from ksi.core.ports import EventLog, Overflow, Start
from ksi.kernel.context import EventContext
from ksi.kernel.declare import Addressed, Encoded, Gap, Opened, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.schema import answer_codec
from ksi.plugins.references import find_run
from ksi.plugins.shapes import ShownEvent, position, shown

RECENT_MAX, RECENT_BYTES_MAX = 512, 4 << 10
_encode = answer_codec(ShownEvent, where="event").encode


class Subscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events, and from where on."""

    pattern: Annotated[str, Meta(description="names of events, as in agent:* or agent:")] = "*"
    kinds: tuple[Kind, ...] = ("fact",)
    tags: Annotated[tuple[str, ...], Meta(description="only events that have all of these")] = ()
    correlation_id: Annotated[str | None, Meta(description="a run: id, unique beginning of one, last")] = None
    after: Annotated[str, Meta(description="start, end, @1234, or checkpoint (of the subscriber)")] = "end"
    subscriber: Annotated[str | None, Meta(description="name under which its place is remembered")] = None
    overflow: Annotated[Overflow, Meta(description="for a slow reader: wait, drop (with a gap), disconnect")] = "wait"


class Recent:
    """The last few events in their JSON, made once for all who follow the log at its end."""

    def __init__(self) -> None:
        self._made: dict[Position, Encoded] = {}
        self.encodings = 0

    def shown(self, event: RecordedEvent) -> Encoded:
        """``event`` for clients."""
        found = self._made.get(event.position)
        if found is None:
            self.encodings += 1
            found = Encoded(_encode(shown(event)))
            self._keep(event, found)
        return found

    def _keep(self, event: RecordedEvent, made: Encoded) -> None:
        if event.subject is not None or len(event.raw) > RECENT_BYTES_MAX:
            return  # of a person's data nothing is kept that an erasure does not reach
        if len(self._made) >= RECENT_MAX:
            self._made.clear()
        self._made[event.position] = made


class Event(AsyncPlugin):
    """Shows recorded events as they come."""

    name = "event"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._recent = Recent()

    @stream(
        "event:subscribe",
        record=False,
        errors=["subscription_dropped", "not_found"],
        examples=[{"pattern": "agent:"}, {"after": "start", "kinds": ["fact", "request", "outcome"]}],
    )
    async def subscribe(
        self, request: Subscribe, context: EventContext
    ) -> AsyncIterator[ShownEvent | Addressed | Gap | Opened]:
        """Follow the log: what is there after a place, then what comes, without gap or double.

        Each event has its address (``@position``): whoever was disconnected subscribes again after the last one.
        """
        run = request.correlation_id
        wanted = Filter(
            names=() if request.pattern == "*" else (request.pattern,),
            kinds=request.kinds,
            tags=frozenset(request.tags),
            correlation_id=None if run is None else await find_run(self._log, run, branch=context.branch),
        )
        start = await self._start(request, context.branch)
        if request.after in ("end", "checkpoint"):
            yield Opened(f"@{start}")
        subscription = self._log.subscribe(
            (wanted,), after=start, subscriber=request.subscriber, overflow=request.overflow, branch=context.branch
        )
        dropped = 0
        async with subscription as events:
            async for event in events:
                if events.dropped > dropped:
                    yield Gap({"dropped": events.dropped - dropped})
                    dropped = events.dropped
                yield Addressed(at=f"@{event.position}", data=self._recent.shown(event))
                if request.subscriber is not None:
                    await events.ack(event)  # the reader had credit for it: it was taken

    async def _start(self, request: Subscribe, branch: str) -> Start:
        """Where it begins; a position where a reader that comes again without an event yet would begin elsewhere."""
        match request.after:
            case "start":
                return "start"
            case "end":
                return await self._log.head() or Position(0)
            case "checkpoint" if request.subscriber is not None:  # it moves with what is sent, and may be lost
                return await self._log.checkpoint(request.subscriber, branch=branch) or Position(0)
            case "checkpoint":
                raise ValidationError("a checkpoint belongs to a subscriber: give subscriber, or another after")
            case place:
                return position(place)
