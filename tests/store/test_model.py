"""Every backend does what a model of thirty lines does, whatever the order of appends, retries, restarts and reads."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from ksi.core import ids
from ksi.core.errors import (
    AppendConditionError,
    CheckpointConflictError,
    EventIdConflictError,
    StoreError,
    WrongExpectedVersionError,
)
from ksi.core.events import AppendCondition, Filter, NewEvent, Position, RecordedEvent, StreamAppend
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.store import idindex, tail, upkeep
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import ALL_KINDS, COUNTER, Counter, CounterView, listed, request, submitted

T = TypeVar("T")
STREAMS = st.sampled_from(["counter/a", "counter/b", "counter/c"])
TAGS = st.frozensets(st.sampled_from(["x:1", "x:2"]))
AMOUNTS = st.integers(-5, 5)
EVENTS = st.builds(lambda amount, tags: (amount, tags), AMOUNTS, TAGS)


class LogMachine(RuleBasedStateMachine):
    """The store on one side, lists and dicts on the other."""

    units = Bundle("units")
    opened = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.events: list[tuple[str, int, frozenset[str]]] = []
        self.positions: list[int] = []
        self.checkpoints: dict[str, int] = {}
        self.open: list[bytes] = []
        self.seen_ids: set[UUID] = set()

    def run(self, awaitable: Any) -> Any:
        async def waited() -> Any:
            return await awaitable

        return self.runner.run(waited())

    def end(self, awaitable: Any) -> Any:
        """What it gives, or the store's error."""
        try:
            return self.run(awaitable)
        except StoreError as error:
            return error

    async def make(self) -> Journal:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.store = self.runner.run(self.make())
        self.store.register(CounterView)

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
    def version(self, stream: str) -> int:
        return sum(one == stream for one, _, _ in self.events)

    def totals(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for stream, amount, _ in self.events:
            name = stream.partition("/")[2]
            totals[name] = totals.get(name, 0) + amount
        return totals

    def record(self, positions: Any, facts: list[tuple[str, int, frozenset[str]]]) -> None:
        assert len(positions) == len(facts)
        assert not self.positions or not positions or positions[0] > self.positions[-1]
        self.positions += positions
        self.events += facts

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @rule(target=units, stream=STREAMS, events=st.lists(EVENTS, min_size=1, max_size=40), off=st.integers(-1, 1))
    def append(self, stream: str, events: list[tuple[int, frozenset[str]]], off: int) -> Any:
        batch = [
            NewEvent(name=COUNTER, data={"amount": amount}, tags=tags, event_id=UUID(bytes=ids.new_id()))
            for amount, tags in events
        ]
        expected = self.version(stream) + off
        appended = self.end(self.store.append(stream, batch, expected_version=expected))
        if off:
            assert isinstance(appended, WrongExpectedVersionError)
            assert appended.actual == self.version(stream)
            return None
        assert appended.versions == tuple(range(expected + 1, expected + 1 + len(events)))
        self.record(appended.positions, [(stream, amount, tags) for amount, tags in events])
        return stream, batch, appended.positions

    @rule(unit=units)
    def retry(self, unit: Any) -> None:
        if unit is not None:
            stream, batch, positions = unit
            again = self.run(self.store.append(stream, batch, expected_version=0))
            assert (again.positions, again.deduplicated) == (positions, True)

    @rule(unit=units, amount=AMOUNTS)
    def half_a_batch(self, unit: Any, amount: int) -> None:
        if unit is not None:
            stream, batch, _ = unit
            with pytest.raises(EventIdConflictError):
                self.run(self.store.append(stream, [*batch, NewEvent(name=COUNTER, data={"amount": amount})]))

    @rule(stream=STREAMS, amount=AMOUNTS, tags=TAGS, back=st.integers(0, 5))
    def conditional(self, stream: str, amount: int, tags: frozenset[str], back: int) -> None:
        after = self.positions[-back] if 0 < back <= len(self.positions) else None
        forbidden = [
            position
            for position, (one, _, known) in zip(self.positions, self.events, strict=True)
            if one == stream and tags <= known and position > (after or 0)
        ]
        names = () if back % 2 else ("counter:*",)
        condition = AppendCondition(
            [Filter(names=names, streams=(stream,), tags=tags)], None if after is None else Position(after)
        )
        event = NewEvent(name=COUNTER, data={"amount": amount}, tags=tags)
        appended = self.end(self.store.append(stream, [event], condition=condition))
        if forbidden:
            assert isinstance(appended, AppendConditionError)
            assert appended.conflicting in forbidden
            return
        self.record(appended.positions, [(stream, amount, tags)])

    @rule(many=st.lists(st.tuples(STREAMS, AMOUNTS, st.booleans()), min_size=1, max_size=8))
    def together(self, many: list[tuple[str, int, bool]]) -> None:
        """Units of one turn: each is decided with those before it under way."""
        expected: list[bool] = []
        made = []
        versions = {stream: self.version(stream) for stream, _, _ in many}
        for stream, amount, right in many:
            entry = Entry(stream=stream, name=COUNTER, data=b'{"amount":%d}' % amount)
            version = versions[stream] if right else versions[stream] + 1
            unit = Unit(origin=request(), request=True, entries=[entry], outcome=Outcome(True, b"{}"))
            unit.expected = {stream: version}
            made.append(unit)
            expected.append(right)
            versions[stream] += right

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(submitted(self.store, unit) for unit in made), return_exceptions=True)

        for (stream, amount, _), right, end in zip(many, expected, self.runner.run(all_of_them()), strict=True):
            assert isinstance(end, WrongExpectedVersionError) == (not right)
            if right:
                self.record(end.positions, [(stream, amount, frozenset())])

    @rule(target=opened)
    def open_request(self) -> bytes:
        origin = request()
        self.run(submitted_in(self.store, Unit(origin=origin, request=True)))
        self.open.append(origin.event_id)
        return origin.event_id

    @rule(raw=consumes(opened), stream=STREAMS, amount=AMOUNTS)
    def close_request(self, raw: bytes, stream: str, amount: int) -> None:
        entry = Entry(stream=stream, name=COUNTER, data=b'{"amount":%d}' % amount)
        unit = Unit(origin=request(id=raw), entries=[entry], outcome=Outcome(True, b"{}"))
        committed = self.run(submitted_in(self.store, unit))
        self.record(committed.positions, [(stream, amount, frozenset())])
        self.open.remove(raw)
        with pytest.raises(EventIdConflictError):
            self.run(submitted_in(self.store, Unit(origin=unit.origin, outcome=Outcome(True, b"{}"))))

    @precondition(lambda self: self.positions)
    @rule(subscriber=st.sampled_from(["s1", "s2"]), place=st.integers(0, 50), stream=STREAMS, amount=AMOUNTS)
    def checkpoint(self, subscriber: str, place: int, stream: str, amount: int) -> None:
        wanted = self.positions[place % len(self.positions)]
        appends = [StreamAppend(stream, [NewEvent(name=COUNTER, data={"amount": amount})])]
        appended = self.end(self.store.append_all(appends, checkpoint=(subscriber, Position(wanted))))
        if self.checkpoints.get(subscriber, 0) >= wanted:
            assert isinstance(appended, CheckpointConflictError)
            assert appended.actual == self.checkpoints[subscriber]
            return
        self.checkpoints[subscriber] = wanted
        self.record(appended.positions, [(stream, amount, frozenset())])

    @rule(stream=STREAMS, low=st.integers(1, 30), size=st.integers(0, 10), backwards=st.booleans())
    def read_a_part(self, stream: str, low: int, size: int, backwards: bool) -> None:
        read = self.store.read_stream(stream, from_version=low, to_version=low + size, backwards=backwards)
        wanted = [version for version in range(low, low + size + 1) if version <= self.version(stream)]
        versions = [event.version for event in self.run(listed(read))]
        assert versions == (wanted[::-1] if backwards else wanted)

    # ── invariants ───────────────────────────────────────────────────────────────────────────────────────────────────
    @invariant()
    def the_log_holds_what_was_appended(self) -> None:
        if not hasattr(self, "store"):
            return
        facts: list[RecordedEvent] = self.run(listed(self.store.read_all()))
        assert [(fact.stream, fact.data["amount"], fact.tags) for fact in facts] == self.events
        assert [fact.position for fact in facts] == self.positions
        times = [event.recorded_at for event in self.run(listed(self.store.read_all([ALL_KINDS])))]
        assert times == sorted(times)

    @invariant()
    def views_checkpoints_and_open_requests_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        records: list[Counter] = self.run(self.store.view(CounterView).scan()).records
        assert {record.id: record.total for record in records} == self.totals()
        for subscriber in ("s1", "s2"):
            assert self.run(self.store.checkpoint(subscriber)) == self.checkpoints.get(subscriber)
        assert [known.request.id for known in self.run(listed(self.store.open_requests()))] == self.open

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                assert self.run(self.store.verify()) == []
        finally:
            self.run(self.stack.aclose())
            self.runner.close()


async def submitted_in(store: Journal, unit: Unit) -> Any:
    return await submitted(store, unit)


class MemoryMachine(LogMachine):
    async def make(self) -> Journal:
        return await self.stack.enter_async_context(InMemoryEventStore())


class SqliteMachine(LogMachine):
    """With small bounds, so that generations, trims and flushes happen; and it is closed and opened again."""

    async def make(self) -> Journal:
        tail.ROWS_MAX, tail.NEWEST, idindex.IDS_MAX, upkeep.CHANGES_MAX = 7, 2, 8, 3
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        return await self._opened()

    async def _opened(self) -> Journal:
        path = Path(self.folder) / "events.db"
        return await self.stack.enter_async_context(SqliteEventStore.open(path, durability="normal"))

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self._opened())
        self.store.register(CounterView)


_FEW = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestMemoryAgainstModel = MemoryMachine.TestCase
TestMemoryAgainstModel.settings = _FEW
TestSqliteAgainstModel = SqliteMachine.TestCase
TestSqliteAgainstModel.settings = _FEW
