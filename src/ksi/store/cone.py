"""The cone of an event: all that would have been different without it.

That is what it caused, and, transitively, every request that had read something that was written inside the cone. A
request whose read set was too long to be kept counts as one that had read everything.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from ksi.core.errors import OverloadedError
from ksi.core.events import MAIN, Filter, Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.core.views import View
from ksi.kernel.effects import READ
from ksi.kernel.reads import STREAM, reads_of
from ksi.store.memory_shelf import MemoryShelf
from ksi.store.views import KeptView, Place

EVENTS_MAX = 100_000
"""Events behind the first one that are looked at."""
_LINKED = (Filter(kinds=("fact", "request", "outcome")),)


class Touched(msgspec.Struct, frozen=True):
    """A record that a fact changed; ``key`` as JSON has it, None where there was or is no record."""

    view: str
    key: list[Any]
    before: Any
    after: Any


class Write(msgspec.Struct, frozen=True):
    """What a fact changed: its stream, and records of views. Its ``writer`` had read before it wrote."""

    position: Position
    writer: bytes | None
    stream: str
    records: Sequence[Touched]


class Member(msgspec.Struct, frozen=True):
    """A request in the cone. ``through`` is the position of its cause, or of the write that it had read."""

    request: bytes
    name: str
    why: Literal["caused", "read"]
    through: Position


class Cone(msgspec.Struct, frozen=True):
    """``positions`` are those of all events in it, the first one included; ``members`` the requests, as they joined."""

    positions: frozenset[Position]
    members: Sequence[Member]


async def cone_of(
    log: EventLog, root: RecordedEvent, views: Mapping[str, type[View[Any]]], *, branch: str = MAIN
) -> Cone:
    """The cone of ``root``.

    Args:
        views: Those by name that read sets may speak of.

    Raises:
        OverloadedError: More than :data:`EVENTS_MAX` events follow it.
    """
    before = Position(root.position - 1)
    events = [event async for event in log.read_all(_LINKED, after=before, limit=EVENTS_MAX + 1, branch=branch)]
    if len(events) > EVENTS_MAX:
        raise OverloadedError("the cone of an event", limit=EVENTS_MAX)
    named = {name for event in events for read in _reads(event) for name in _views_in(read)}
    writes = _Writes([views[name] for name in sorted(named & views.keys())], root.position)
    async for event in log.read_all(branch=branch):
        writes.take(event)
    return await _Cone(events, writes.found, views).grown_from(root)


class _Writes:
    """Folds views from the beginning, and notes what each fact changes from a position on."""

    def __init__(self, views: Iterable[type[View[Any]]], start: Position) -> None:
        self.found: dict[Position, list[Touched]] = defaultdict(list)
        self._kept = [KeptView(view(), MemoryShelf(Place(view)), Place(view)) for view in views]
        self._start = start

    def take(self, event: RecordedEvent) -> None:
        for kept in self._kept:
            for change in kept.apply(kept.chosen([event])):
                before = kept.shelf.get(change.key)
                kept.show(change)
                if event.position >= self._start:
                    key = msgspec.to_builtins(list(change.key))
                    self.found[event.position].append(Touched(kept.view.name, key, before, change.record))


class _Cone:
    def __init__(
        self,
        events: Sequence[RecordedEvent],
        touched: Mapping[Position, Sequence[Touched]],
        views: Mapping[str, type[View[Any]]],
    ) -> None:
        self._touched = touched
        self._views = views
        self._below: dict[bytes, list[RecordedEvent]] = defaultdict(list)
        for event in events:
            if event.cause is not None:
                self._below[event.cause].append(event)
        self._readers = [(event, _reads(event)) for event in events if event.cause is not None and _reads(event)]
        self._positions: set[Position] = set()
        self._members: dict[bytes, Member] = {}
        self._writes: deque[Write] = deque()

    async def grown_from(self, root: RecordedEvent) -> Cone:
        self._add(root)
        while self._writes:
            await asyncio.sleep(0)  # each write is held against each reader: of a large run that takes many seconds
            write = self._writes.popleft()
            for outcome, reads in self._readers:
                if self._is_outside(outcome, write) and self._meets(reads, write):
                    self._join(outcome, write)
        return Cone(frozenset(self._positions), list(self._members.values()))

    def _is_outside(self, outcome: RecordedEvent, write: Write) -> bool:
        """Whether it ended behind the write and is not known to depend on it."""
        return (
            outcome.position > write.position and outcome.cause != write.writer and outcome.cause not in self._members
        )

    def _join(self, outcome: RecordedEvent, write: Write) -> None:
        """The request that ``outcome`` ended, with all that it did."""
        assert outcome.cause is not None  # one without a cause has read nothing
        self._members[outcome.cause] = Member(outcome.cause, outcome.name, "read", write.position)
        for event in self._below[outcome.cause]:
            self._add(event)

    def _add(self, event: RecordedEvent) -> None:
        waiting = [event]
        while waiting:
            each = waiting.pop()
            if each.position in self._positions:
                continue
            self._positions.add(each.position)
            if each.kind == "fact":
                self._writes.append(Write(each.position, each.cause, each.stream, self._touched.get(each.position, ())))
            elif each.kind == "request" and each.stream == "$requests":
                self._members.setdefault(each.id, Member(each.id, each.name, "caused", each.position))
            waiting += reversed(self._below[each.id])

    def _meets(self, reads: Sequence[Any], write: Write) -> bool:
        return any(self._meets_one(read, write) for read in reads)

    def _meets_one(self, read: Any, write: Write) -> bool:
        match read:
            case {"left_out": _}:
                return True
            case {"reads": below}:
                return self._meets(below, write)
            case [name, how, *_] if name == STREAM:
                return bool(how[0] == write.stream)
            case [name, how, *_]:
                return any(self._is_read(how, record) for record in write.records if record.view == name)
        return False

    def _is_read(self, how: Any, touched: Touched) -> bool:
        """By its key, or by a scan that showed it before, or would show it now."""
        if isinstance(how, list):
            return how == touched.key
        view = self._views[touched.view]
        fields = (*view.indexes[how["index"]], *view.key) if how["index"] is not None else view.key
        prefix = how["prefix"]
        return any(
            record is not None and prefix == _values(record, fields[: len(prefix)])
            for record in (touched.before, touched.after)
        )


def _values(record: Any, fields: Sequence[str]) -> list[Any]:
    return [msgspec.to_builtins(getattr(record, field)) for field in fields]


def _reads(event: RecordedEvent) -> Sequence[Any]:
    """The read set that an event was recorded with."""
    if event.kind != "outcome":
        return ()
    if event.name == READ:
        return [what[1:] for saved in event.data["reads"] if (what := saved["what"])[0] == "view"]
    reads = reads_of(event)
    return [*reads, {"left_out": True}] if "reads_left_out" in event.metadata else reads


def _views_in(read: Any) -> Iterable[str]:
    match read:
        case {"reads": below}:
            return {name for each in below for name in _views_in(each)}
        case [name, *_]:
            return {name}
    return ()
