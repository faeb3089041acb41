"""How far the speed of a request holds when there is more of one thing: a row is a sweep, its first step the floor.

What is looked for is a cliff: a step that costs far more than the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from ksi.bench import wire
from ksi.bench.dispatch import BATCH, batch
from ksi.bench.load import Load
from ksi.bench.measure import Contestant, Row, Sample, Stopwatch
from ksi.bench.plugin import Bench, item
from ksi.core.clock import SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.events import Filter
from ksi.core.threads import SystemThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.declare import event, query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.permission import Permission
from ksi.store.memory import InMemoryEventStore
from ksi.store.subscribe import LogSubscription

IN_FLIGHT = (1, 4, 16, 64, 256, 1024)
CONNECTIONS = (1, 10, 100, 1000)
PAYLOADS = (100, 1 << 10, 10 << 10, 100 << 10, 1000 << 10)
"""Bytes of text; the last is near to the largest frame."""
EVENTS = (10, 100, 1_000, 10_000)
SUBSCRIPTIONS = (0, 100, 1_000, 10_000)
PLUGINS = (5, 50, 200)
KEYS = (1, 64, 1_024)
QUERY, COMMAND = "bench:echo_inline", "bench:put"
_encode = msgspec.json.encode


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    """``count`` requests a step; a tenth where each costs more."""
    load, home = Load.build(directory), directory / "home"
    module = ["ksi.daemon", "--home", str(home), "--set", "http.enabled=false", "--plugin", "ksi.bench.plugin:Bench"]
    with wire.server(module, home / "daemon.sock") as daemon:
        lines = _lines(directory, len(item(0)["text"]))

        def sample(lines: Path, count: int, *, connections: int = 1, window: int = wire.IN_FLIGHT) -> Sample:
            before = daemon.cpu_seconds()
            seconds = load.run(daemon.path, lines, connections=connections, window=window, count=count)
            return Sample(count / seconds, (daemon.cpu_seconds() - before) / count * 1e6)

        yield [
            _row("in flight", IN_FLIGHT, lambda step: sample(lines, count, window=step)),
            _row(
                "connections, one in flight each",
                CONNECTIONS if load.binary else CONNECTIONS[:1],
                lambda step: sample(lines, count, connections=step, window=1),
            ),
            _row(
                "bytes of text",
                PAYLOADS,
                lambda step: sample(_lines(directory, step), max(64, min(count, 20_000_000 // step)), window=16),
            ),
            _row("registered events", EVENTS, lambda step: _dispatched(QUERY, count, [_with_events(step)])),
            _row("plugins", PLUGINS, lambda step: _dispatched(QUERY, count, [_with_events(1, n) for n in range(step)])),
            _row(
                "commands in memory, beside subscriptions",
                SUBSCRIPTIONS,
                lambda step: _dispatched(COMMAND, count // 10, [], subscriptions=step),
            ),
            _row(
                "commands in memory, keys",
                KEYS,
                lambda step: _dispatched("sweep:keyed", count // 10, [Keyed], keys=step),
            ),
        ]


def _row(name: str, steps: Sequence[int], run: Callable[[int], Sample]) -> Row:
    contestants = [Contestant(f"{step:,}", partial(run, step)) for step in steps]
    return Row(f"sweep: {name}", contestants, floor=f"that of {steps[0]:,}")


def _lines(directory: Path, size: int) -> Path:
    """Prepared requests whose text has ``size`` bytes."""
    file = directory / f"text-{size}"
    if not file.exists():
        many = max(64, min(8_192, 20_000_000 // size))
        frames = ({"id": n, "event": QUERY, "data": {**item(n), "text": "x" * size}} for n in range(many))
        file.write_bytes(b"".join(_encode(frame) + b"\n" for frame in frames))
    return file


# ── in the process ───────────────────────────────────────────────────────────────────────────────────────────────────
class Keyed(AsyncPlugin):
    """A command under a key."""

    name = "sweep_keyed"

    @event("sweep:keyed", key=lambda payload: payload.name)
    async def keyed(self, name: str) -> None: ...


def _with_events(count: int, number: int = 0) -> type[AsyncPlugin]:
    """A plugin of ``count`` queries."""

    def query_of(place: int) -> Any:
        @query(f"sweep_{number}:number_{place}", inline=True)
        def answer(self: AsyncPlugin, value: int) -> int:
            return value

        return answer

    members = {f"answer_{place}": query_of(place) for place in range(count)}
    return type(f"Sweep{number}", (AsyncPlugin,), {"name": f"sweep_{number}", **members})


def _dispatched(
    name: str, count: int, plugins: Sequence[type[AsyncPlugin]], *, subscriptions: int = 0, keys: int = 0
) -> Sample:
    async def run() -> Sample:
        async with AsyncExitStack() as stack:
            threads, store = SystemThreads(), InMemoryEventStore()
            stack.callback(threads.close)
            stack.push_async_callback(store.close)
            kernel = Kernel(Ports(journal=store, threads=threads, clock=SystemClock()))
            await kernel.start([Permission, Bench, *plugins])
            stack.push_async_callback(kernel.stop)
            for number in range(subscriptions):
                await stack.enter_async_context(_waiting(store, f"nobody:number_{number}"))
            session, turns = Session(principal="bench", source="bench"), max(1, count // BATCH)
            await batch(kernel, session, _envelopes(name, keys))
            watch = Stopwatch()
            for _ in range(turns):
                await batch(kernel, session, _envelopes(name, keys))
            return watch.sample(turns * BATCH)

    return uvloop.run(run())


@asynccontextmanager
async def _waiting(store: InMemoryEventStore, name: str) -> AsyncIterator[None]:
    """A subscriber who waits for facts of ``name``."""
    async with store.subscribe((Filter(names=(name,)),), after="end") as subscription:
        reading = asyncio.ensure_future(_read(subscription))
        yield
        reading.cancel()


async def _read(subscription: LogSubscription) -> None:
    async for _ in subscription:
        pass


def _envelopes(name: str, keys: int) -> Iterator[EventEnvelope]:
    for number in range(BATCH):
        data = {"name": f"key-{number % keys}"} if keys else item(number)
        yield EventEnvelope(name=name, raw=_encode(data))
