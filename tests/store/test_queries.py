"""Any query, read in any way, gives what its predicate says of every event: in memory, and from keys on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.envelope import EventEnvelope
from ksi.core.events import FAILED, ROOT, Filter, NewEvent, Position, RecordedEvent
from ksi.core.patterns import matches
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.store import tail
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import ALL_KINDS, listed, written
from ksi.testing.loop import ManualClock

NAMES = ("note:added", "note:removed", "mail:sent", "mail:send", "effect:requested")
STREAMS = ("note/1", "note/2", "mail/1", "$effects", "$requests")
TAGS = ("agent:a1", "agent:a2", ROOT, FAILED)


async def fill(log: Journal, clock: ManualClock) -> None:
    """A log of facts, chunks, effects, requests and outcomes in runs that hang together in every way."""
    parent = EventEnvelope(name="mail:send", raw=b"{}", id=ids.new_id())
    await written(log, Unit(origin=parent, request=True))
    for number in range(24):
        clock.advance(0.25)
        kind = ("fact", "fact", "chunk", "request")[number % 4]
        stream = "$effects" if kind == "request" else STREAMS[number % 3]
        entry = Entry(stream=stream, name=NAMES[number % 5], data=b"{}", kind=kind)  # type: ignore[arg-type]  # of four
        entry.tags = frozenset(TAGS[: number % 3]) if kind != "chunk" else frozenset()
        origin = parent
        if number % 2:
            cause = parent.event_id if number % 3 else None
            run = parent.correlation_id if number % 3 else f"run-{number % 2}"
            origin = EventEnvelope(name=NAMES[number % 4], raw=b"{}", id=ids.new_id(), cause=cause, correlation=run)
            ended = Outcome(number % 5 != 0, b"{}")
            await written(log, Unit(origin=origin, request=True, entries=[entry], outcome=ended))
        else:
            await written(log, Unit(origin=origin, entries=[entry]))
        await log.append("note/1", [NewEvent(name="note:added", data={}, tags=frozenset({TAGS[number % 2]}))])
    await written(log, Unit(origin=parent, outcome=Outcome(False, b"{}")))


class Logs:
    """The same log twice, and all its events."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.logs: list[Journal] = []
        clocks = ManualClock(), ManualClock()
        self._open(InMemoryEventStore(clock=clocks[0]), clocks[0])
        self._open(SqliteEventStore.open(folder / "events.db", clock=clocks[1]), clocks[1])

    def _open(self, opened: AbstractAsyncContextManager[Journal], clock: ManualClock) -> None:
        log = self.runner.run(self.stack.enter_async_context(opened))
        self.runner.run(fill(log, clock))
        self.logs.append(log)

    def read(self, log: Journal, query: Sequence[Filter], **how: Any) -> list[RecordedEvent]:
        return self.runner.run(listed(log.read_all(query, **how)))

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logs]:
    before = tail.ROWS_MAX, tail.NEWEST
    tail.ROWS_MAX, tail.NEWEST = 17, 2  # most of it is found by keys on disk, and little is unpacked
    logs = Logs(tmp_path_factory.mktemp("queries"))
    yield logs
    logs.close()
    tail.ROWS_MAX, tail.NEWEST = before


def some(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True)


FILTERS = st.builds(
    lambda names, tags, streams, kinds, run, cause, start, end: Filter(
        names=tuple(names),
        tags=frozenset(tags),
        streams=tuple(streams),
        kinds=tuple(kinds) or ("fact",),
        correlation_id=run,
        causation_id=cause,
        recorded_from=start,
        recorded_to=end,
    ),
    some([*NAMES, "note:", "mail:*", "*"]),
    some(TAGS),
    some([*STREAMS, "note/", "*"]),
    st.lists(st.sampled_from(["fact", "request", "outcome", "chunk"]), max_size=4, unique=True),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 80),
    st.none() | st.integers(0, 80),
)


def of_this_log(one: Filter, events: Sequence[RecordedEvent]) -> Filter:
    """``one``, its runs, causes and times drawn from what is there."""
    runs = [*sorted({event.correlation_id for event in events if event.correlation_id}), "nobody"]
    causes = [*sorted({event.causation_id for event in events if event.causation_id}), UUID(int=7)]
    times = [event.recorded_at for event in events]

    def moment(number: Any) -> Any:
        return None if number is None else times[number % len(times)] + timedelta(microseconds=number % 3 - 1)

    run, cause = one.correlation_id, one.causation_id
    return Filter(
        names=one.names,
        tags=one.tags,
        streams=one.streams,
        kinds=one.kinds,
        correlation_id=None if run is None else runs[int(run) % len(runs)],
        causation_id=None if cause is None else causes[int(cause) % len(causes)],
        recorded_from=moment(one.recorded_from),
        recorded_to=moment(one.recorded_to),
    )


def fits(one: Filter, event: RecordedEvent) -> bool:
    return (
        event.kind in one.kinds
        and (not one.names or any(matches(name, event.name) for name in one.names))
        and (not one.streams or any(matches(name, event.stream) for name in one.streams))
        and one.tags <= event.tags
        and one.correlation_id in (None, event.correlation_id)
        and one.causation_id in (None, event.causation_id)
        and (one.recorded_from or utc(0)) <= event.recorded_at
        and (one.recorded_to is None or event.recorded_at < one.recorded_to)
    )


@given(
    st.lists(FILTERS, max_size=3),
    st.none() | st.integers(0, 110),
    st.none() | st.integers(0, 110),
    st.booleans(),
    st.none() | st.integers(0, 9),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_query_gives_what_its_predicate_says(
    logs: Logs, filters: list[Filter], after: Any, until: Any, backwards: bool, limit: int | None
) -> None:
    for log in logs.logs:
        everything = logs.read(log, [ALL_KINDS])
        query = [of_this_log(one, everything) for one in filters]
        wanted = [
            event
            for event in everything
            if any(fits(one, event) for one in query or [Filter()])
            and (after or 0) < event.position <= (len(everything) if until is None else until)
        ]
        wanted = (wanted[::-1] if backwards else wanted)[:limit]
        how = {"after": after and Position(after), "until": until if until is None else Position(until)}
        assert logs.read(log, query, backwards=backwards, limit=limit, **how) == wanted


def test_the_stream_of_requests_is_read_by_position(logs: Logs) -> None:
    for log in logs.logs:
        requests = logs.read(log, [Filter(kinds=("request", "outcome"), streams=("$requests",))])
        assert logs.runner.run(listed(log.read_stream("$requests"))) == requests
        low, high = requests[3].version, requests[9].version
        part = log.read_stream("$requests", from_version=low, to_version=high)
        assert logs.runner.run(listed(part)) == requests[3:10]
        backwards = log.read_stream("$requests", from_version=low, backwards=True, limit=2)
        assert logs.runner.run(listed(backwards)) == requests[-1:-3:-1]
        assert logs.runner.run(log.version("$requests")) == requests[-1].position
