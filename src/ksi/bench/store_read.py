"""What is asked of a log that is there: all of it again, its state at any moment, a subscription, a fork."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count as counter
from pathlib import Path

import apsw
import msgspec
import uvloop

from ksi.bench import store_append
from ksi.bench.measure import Contestant, Row, Sample, Stopwatch, rival
from ksi.bench.plugin import Item
from ksi.core.events import Filter, Position, Query, RecordedEvent
from ksi.core.views import JsonState
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.sqlite_log import SqliteEventStore

AT_ONCE = 64
SMALL = 640
"""Events of the log that a fork must not be faster on than on a large one."""
FOLDED, ASKED = 10, 400
"""Questions without and with snapshots."""
FORKS = 100
STATE_US_MAX = 5_000.0
EVENTSOURCING = "eventsourcing, events as objects"
_number = counter()


class Total(msgspec.Struct, frozen=True):
    """What all events sum up to."""

    events: int = 0
    count: int = 0


class Totals(JsonState[Total]):
    """A fold over the whole log."""

    name = "bench_totals"
    query: Query = (Filter(),)
    state = Total

    def initial(self) -> Total:
        return Total()

    def apply(self, state: Total, event: RecordedEvent) -> Total:
        return Total(state.events + 1, state.count + event.into(Item).count)


def rows(directory: Path, count: int) -> Iterator[Row]:
    path, small = directory / "reading.db", directory / "small.db"
    count = count // AT_ONCE * AT_ONCE
    uvloop.run(store_append.ksi(path, count, AT_ONCE))
    uvloop.run(store_append.ksi(small, SMALL, AT_ONCE))
    yield _replaying(directory, path, count // 10)
    yield _states(path, count)
    yield _catching_up(path)
    yield Row(
        "store: fork",
        [
            Contestant(f"KSI, a log of {SMALL:,} events", lambda: uvloop.run(_forks(small))),
            Contestant(f"KSI, a log of {count:,} events", lambda: uvloop.run(_forks(path)), 0.7),
        ],
    )


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _replaying(directory: Path, path: Path, others: int) -> Row:
    contestants = [
        rival("bare SELECT and msgpack decode", lambda: _select(path)),
        Contestant("KSI read_all", lambda: uvloop.run(_replay(path)), 0.6, {EVENTSOURCING: 10.0}),
    ]
    if not find_spec("eventsourcing"):
        return Row("store: replay into recorded events", contestants, ["eventsourcing"])
    from ksi.bench import peer_eventsourcing  # an extra

    filled = directory / "eventsourcing.db"
    peer_eventsourcing.filled(filled, others)
    contestants.append(rival(EVENTSOURCING, lambda: peer_eventsourcing.replay(filled)))
    return Row("store: replay into recorded events", contestants)


def _select(path: Path) -> Sample:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    decode = msgspec.msgpack.Decoder().decode
    watch, count = Stopwatch(), 0
    for (body,) in connection.execute("SELECT body FROM log ORDER BY pos"):
        decode(body[:-16])
        count += 1
    return watch.sample(count)


async def _replay(path: Path) -> Sample:
    async with SqliteEventStore.open(path) as store:
        watch, count = Stopwatch(), 0
        async for _ in store.read_all():
            count += 1
        return watch.sample(count)


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _states(path: Path, count: int) -> Row:
    return Row(
        f"store: state at random positions of {count:,} events",
        [
            Contestant("KSI read_all and a fold", lambda: uvloop.run(_folded(path, count))),
            Contestant("KSI state_at", lambda: uvloop.run(_states_at(path, count)), cpu_us_max=STATE_US_MAX),
        ],
        floor="reading from the start",
    )


async def _folded(path: Path, count: int) -> Sample:
    fold, chosen = Totals(), random.Random(count)
    async with SqliteEventStore.open(path) as store:
        watch = Stopwatch()
        for _ in range(FOLDED):
            state = fold.initial()
            async for event in store.read_all(fold.query, until=Position(1 + chosen.randrange(count))):
                state = fold.apply(state, event)
        return watch.sample(FOLDED)


async def _states_at(path: Path, count: int) -> Sample:
    fold, chosen = Totals(), random.Random(count)
    async with SqliteEventStore.open(path) as store:
        debugger = TimeTravelDebugger(store)
        await debugger.state_at(fold, Position(count))  # whoever asks first leaves snapshots
        watch = Stopwatch()
        for _ in range(ASKED):
            position = Position(1 + chosen.randrange(count))
            assert (await debugger.state_at(fold, position)).events == position
        return watch.sample(ASKED)


# ── a subscription ───────────────────────────────────────────────────────────────────────────────────────────────────
def _catching_up(path: Path) -> Row:
    return Row(
        "store: a subscription catches up",
        [
            rival("bare SELECT and msgpack decode", lambda: _select(path)),
            Contestant("KSI subscribe", lambda: uvloop.run(_catch_up(path))),
        ],
    )


async def _catch_up(path: Path) -> Sample:
    async with SqliteEventStore.open(path) as store:
        head = await store.head()
        watch, count = Stopwatch(), 0
        async with store.subscribe(after="start") as subscription:
            async for event in subscription:
                count += 1
                if event.position == head:
                    break
        return watch.sample(count)


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _forks(path: Path) -> Sample:
    async with SqliteEventStore.open(path) as store:
        head = await store.head()
        assert head is not None
        watch = Stopwatch()
        for _ in range(FORKS):
            await store.fork(head, f"fork-{next(_number)}")
        return watch.sample(FORKS)
