"""Parked events: what a subscriber could not do stands as facts in ``$parked/<subscriber>``, and can be had again.

The facts are ``subscription:parked`` (with the reason; its cause is the event), ``subscription:retried`` (it shall be
given again) and ``subscription:settled`` (done, or dropped).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence, Set
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from ksi.core import canonical
from ksi.core.errors import KSIError, NotFoundError, OverloadedError
from ksi.core.events import Appended, NewEvent, Position, RecordedEvent, fact, fact_name
from ksi.core.events import ParkedEvent as Parked

PARKED_MAX = 1_000
"""Events that a subscriber may have parked: more are a fault that somebody has to look at first."""
CATEGORY = "$parked"


@fact("subscription:parked")
class EventParked(msgspec.Struct, frozen=True):
    position: int
    event_id: UUID
    name: str
    stream: str
    reason: str


@fact("subscription:retried")
class EventRetried(msgspec.Struct, frozen=True):
    position: int


@fact("subscription:settled")
class EventSettled(msgspec.Struct, frozen=True):
    position: int
    how: Literal["done", "dropped"]
    reason: str = ""


class Facts(Protocol):
    """The log, as far as this needs it."""

    async def append(self, stream: str, events: Sequence[NewEvent]) -> Appended: ...
    def read_stream(self, stream: str, *, from_version: int = 1) -> AsyncIterator[RecordedEvent]: ...
    async def at(self, position: Position) -> RecordedEvent | None: ...


class ParkedEvents:
    """What one subscriber has parked; there is one of it for each, so it is always in step with the log."""

    def __init__(self, log: Facts, subscriber: str) -> None:
        self._log = log
        self._subscriber = subscriber
        self.stream = stream_of(subscriber)
        self._events: dict[int, Parked] = {}
        self.dropped: set[int] = set()
        """Positions that were given up: by hand, so they are few."""
        self._seen = 0
        self._turn = asyncio.Lock()
        self.on_retry: Callable[[RecordedEvent], None] | None = None
        """Gives an event again; set while the subscriber is there."""

    async def load(self) -> None:
        """Read what the log says, as far as it is not known."""
        async with self._turn:
            async for event in self._log.read_stream(self.stream, from_version=self._seen + 1):
                self._see(event)

    def __contains__(self, position: int) -> bool:
        return position in self._events

    def __len__(self) -> int:
        return len(self._events)

    def listed(self) -> list[Parked]:
        """In order of position."""
        return [self._events[position] for position in sorted(self._events)]

    def may_hold(self, event: RecordedEvent) -> bool:
        """Whether it can be parked: what was given up is not, nor what tells of parked events itself."""
        return event.position not in self.dropped and not is_parking(event)

    async def park(self, event: RecordedEvent, reason: str) -> None:
        """Raises OverloadedError where too many are parked."""
        if len(self._events) >= PARKED_MAX and event.position not in self._events:
            raise OverloadedError(f"what {self._subscriber!r} has parked", limit=PARKED_MAX)
        await self._say(EventParked(event.position, event.event_id, event.name, event.stream, reason), event)

    async def retry(self, position: Position | None) -> int:
        """Have one, or all, given again, once; how many they are. Raises NotFoundError where that one is not parked."""
        wanted = self._chosen(position)
        for parked in wanted:
            if parked.is_retried:
                continue
            event = await self._log.at(parked.position)
            assert event is not None  # it was parked, so it is there
            await self.doubt(event)
            if self.on_retry is not None:
                self.on_retry(event)
        return len(wanted)

    async def doubt(self, event: RecordedEvent) -> None:
        """It is tried again: until it is settled, or parked anew, nobody knows whether it is done."""
        await self._say(EventRetried(event.position), event)

    async def others(self, positions: Set[int]) -> list[RecordedEvent]:
        """The events that are parked at none of ``positions``."""
        found = [await self._log.at(parked.position) for parked in self.listed() if parked.position not in positions]
        return [event for event in found if event is not None]

    async def retried(self) -> list[RecordedEvent]:
        """Those that were asked for again and are not done yet."""
        positions = [parked.position for parked in self.listed() if parked.is_retried]
        events = [await self._log.at(position) for position in positions]
        return [event for event in events if event is not None]

    async def drop(self, position: Position | None, reason: str) -> int:
        """Give one, or all, up; how many they are. Raises NotFoundError where that one is not parked."""
        wanted = self._chosen(position)
        for parked in wanted:
            await self._say(EventSettled(parked.position, "dropped", reason), None)
        return len(wanted)

    async def settle(self, event: RecordedEvent) -> None:
        """It is done after all."""
        await self._say(EventSettled(event.position, "done"), event)

    def _chosen(self, position: Position | None) -> Sequence[Parked]:
        if position is None:
            return self.listed()
        if position not in self._events:
            raise NotFoundError("parked event", f"@{position}")
        return [self._events[position]]

    async def _say(self, said: msgspec.Struct, event: RecordedEvent | None) -> None:
        """Append it, caused by ``event``, and know it. What a request causes decides over its rerun, so not this."""
        named = fact_name(type(said))
        assert named is not None
        new = NewEvent(
            name=named[0],
            data=canonical.encode(said),
            correlation_id=None if event is None else event.correlation_id,
            subject=None if event is None else event.subject,  # a reason may quote what the event says
            causation_id=event.event_id if event is not None and event.kind == "fact" else None,
        )
        async with self._turn:  # what is said is seen in its order
            appended = await self._log.append(self.stream, [new])
            recorded = await self._log.at(appended.positions[0])
            assert recorded is not None
            self._see(recorded)

    def _see(self, event: RecordedEvent) -> None:
        self._seen = event.version
        if event.data is None:  # erased, with the event that it tells of
            return
        position = Position(event.data["position"])
        match event.name:
            case "subscription:parked":
                self._events[position] = self._parked(event)
            case "subscription:retried" if position in self._events:
                self._events[position] = msgspec.structs.replace(self._events[position], is_retried=True)
            case "subscription:settled":
                self._events.pop(position, None)
                if event.data["how"] == "dropped":
                    self.dropped.add(position)

    def _parked(self, event: RecordedEvent) -> Parked:
        was = event.into(EventParked)
        return Parked(
            subscriber=self._subscriber,
            position=Position(was.position),
            event_id=was.event_id,
            name=was.name,
            stream=was.stream,
            reason=was.reason,
            parked_at=event.recorded_at,
        )


def stream_of(subscriber: str) -> str:
    return f"{CATEGORY}/{subscriber}"


def is_parking(event: RecordedEvent) -> bool:
    """Whether it tells of parked events: those are never parked themselves, or there would be no end."""
    return event.stream.startswith(f"{CATEGORY}/")


def said(error: BaseException) -> str:
    """Why something is parked, in a sentence."""
    return error.message if isinstance(error, KSIError) else f"{type(error).__name__}: {error}"
