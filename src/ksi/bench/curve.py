"""How the log's speed, memory and size go on as it grows: commands of one fact and one view record, 64 in flight."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import uvloop

from ksi.bench.plugin import ItemWasPut, KeptItems, item
from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.events import Filter, Position, Query, RecordedEvent
from ksi.core.ports import Committed, Entry, Outcome, Unit
from ksi.core.views import JsonState
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.sqlite_log import SqliteEventStore

IN_FLIGHT = 64
STREAMS = 1024
READS = 500
"""Reads of each kind at a mark."""
POSITIONS = 3
"""Of one command: request, fact, outcome."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The log at ``commands``: what a command has cost since the mark before, and what a read costs now.

    ``rate`` in commands a second, ``size`` in bytes on disk a command, ``rss`` in bytes; reads a second, one at a time:
    ``by_state`` are states of a fold over all facts at random positions.
    """

    commands: int
    rate: float
    cpu_us: float
    size: float
    rss: int
    by_position: float
    by_id: float
    by_stream: float
    by_state: float


def marks(commands: int) -> list[int]:
    """1, 3, 10 … thousands up to ``commands``, and that."""
    found = [step * 10**power for power in range(3, 12) for step in (1, 3)]
    return [*(mark for mark in found if mark < commands), commands]


def curve(directory: Path, commands: int) -> Iterator[Mark]:
    """Grow a log to ``commands``, mark by mark."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        growing = _grow(directory / "curve.db", marks(commands))
        while (mark := runner.run(_next(growing))) is not None:
            yield mark


async def _next(growing: AsyncIterator[Mark]) -> Mark | None:
    return await anext(growing, None)


async def _grow(path: Path, wanted: list[int]) -> AsyncIterator[Mark]:
    async with SqliteEventStore.open(path) as store:
        store.register(KeptItems)
        before = 0
        for commands in wanted:
            begin, cpu = time.perf_counter(), time.process_time()
            await _Writing(store, before, commands).ended
            seconds, spent = time.perf_counter() - begin, time.process_time() - cpu
            added = commands - before
            await TimeTravelDebugger(store).state_at(Puts())  # whoever asks first leaves snapshots
            reads = [await _rate(read) for read in _reads(store, commands)]
            yield Mark(
                commands=commands,
                rate=added / seconds,
                cpu_us=spent / added * 1e6,
                size=sum(file.stat().st_size for file in path.parent.glob(path.name + "*")) / commands,
                rss=_resident(),
                by_position=reads[0],
                by_id=reads[1],
                by_stream=reads[2],
                by_state=reads[3],
            )
            before = commands


class Put(msgspec.Struct, frozen=True):
    """How many items were put, and what their counts sum up to."""

    count: int = 0
    sum: int = 0


class Puts(JsonState[Put]):
    """A fold over all facts."""

    name = "bench_puts"
    query: Query = (Filter(names=("bench:item_was_put",)),)
    state = Put

    def initial(self) -> Put:
        return Put()

    def apply(self, state: Put, event: RecordedEvent) -> Put:
        return Put(state.count + 1, state.sum + event.into(ItemWasPut).count)


class _Writing:
    """Keeps :data:`IN_FLIGHT` commands under way: the end of one is the beginning of the next."""

    def __init__(self, store: SqliteEventStore, start: int, end: int) -> None:
        self._store = store
        self._next, self._end = start, end
        self._left = end - start
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for _ in range(min(IN_FLIGHT, self._left)):
            self._write()

    def _write(self) -> None:
        self._store.write(_command(self._next), self._done)
        self._next += 1

    def _done(self, committed: Committed | None, error: KSIError | None) -> None:
        if error is not None:
            if not self.ended.done():
                self.ended.set_exception(error)
            return
        self._left -= 1
        if self._next < self._end:
            self._write()
        elif not self._left:
            self.ended.set_result(None)


def _command(number: int) -> Unit:
    envelope = EventEnvelope(name="bench:put", raw=_encode(item(number)), id=_id(number), principal="uid:1000")
    put = _encode(ItemWasPut(f"item-{number % STREAMS:06d}", number))
    entry = Entry(stream=f"item/{number % STREAMS}", name="bench:item_was_put", data=put)
    return Unit(origin=envelope, request=True, entries=[entry], outcome=Outcome(True, put))


_encode = msgspec.json.Encoder().encode
START_MS = 1_790_000_000_000


def _id(number: int) -> bytes:
    """A UUIDv7, twenty in a millisecond; made again from its number when it is looked for."""
    raw = ids.derived((START_MS + number // 20).to_bytes(6, "big") + bytes(10), number)
    return raw[:6] + bytes([0x70 | raw[6] & 0x0F]) + raw[7:]


def _reads(store: SqliteEventStore, commands: int) -> Iterator[Callable[[], Awaitable[object]]]:
    chosen = random.Random(commands)

    async def stream() -> object:
        name = f"item/{chosen.randrange(min(STREAMS, commands))}"
        return [event async for event in store.read_stream(name, backwards=True, limit=20)]

    async def state() -> object:
        at = Position(POSITIONS + chosen.randrange(POSITIONS * (commands - 1)))
        return (await TimeTravelDebugger(store).state_at(Puts(), at)).count

    yield lambda: store.at(Position(1 + chosen.randrange(POSITIONS * commands)))
    yield lambda: store.find(_id(chosen.randrange(commands)))
    yield stream
    yield state


async def _rate(read: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    for _ in range(READS):
        if not await read():
            raise RuntimeError("the log does not find what was written")
    return READS / (time.perf_counter() - begin)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def line(mark: Mark) -> str:
    """A row of the table."""
    return (
        f"{mark.commands:>10,} commands {mark.rate:>8,.0f}/s {mark.cpu_us:>6.1f} µs CPU {mark.size:>6.0f} B each "
        f"{mark.rss / 2**20:>5.0f} MiB   reads/s: position {mark.by_position:>7,.0f}, id {mark.by_id:>7,.0f}, "
        f"20 of a stream {mark.by_stream:>6,.0f}, state {mark.by_state:>6,.0f}"
    )
