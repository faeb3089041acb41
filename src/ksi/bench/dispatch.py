"""Dispatch in the process: envelope, middleware, typed handler, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from ksi.bench.measure import Contestant, Row, Sample, Stopwatch, rival
from ksi.bench.plugin import Bench, Item, item
from ksi.core.clock import SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.threads import SystemThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.door import Session
from ksi.plugins.permission import Permission
from ksi.store.memory import InMemoryEventStore

RAW = msgspec.json.encode(item(1))
BATCH = 64


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    yield [
        Row(
            "dispatch in the process",
            [
                rival("direct await through a dict", lambda: uvloop.run(_direct(count))),
                Contestant(
                    "KSI, msgspec, inline", lambda: uvloop.run(kernel("bench:echo_inline", count)), cpu_us_max=3.0
                ),
                Contestant("KSI, msgspec, async", lambda: uvloop.run(kernel("bench:echo_async", count))),
                Contestant("KSI, pydantic, inline", lambda: uvloop.run(kernel("bench:model_inline", count))),
            ],
        )
    ]


async def _direct(count: int) -> Sample:
    """The floor: a table of functions, no envelope, no checks, no types."""
    payload = msgspec.json.decode(RAW, type=Item)

    async def echo(received: Item) -> Item:
        return received

    table: dict[str, Callable[[Item], Awaitable[Item]]] = {"bench:echo": echo}
    watch = Stopwatch()
    for _ in range(count):
        await table["bench:echo"](payload)
    return watch.sample(count)


async def kernel(event: str, count: int) -> Sample:
    """``count`` requests of ``event``, handed over as a connection does it."""
    threads, clock, store = SystemThreads(), SystemClock(), InMemoryEventStore()
    kernel = Kernel(Ports(journal=store, threads=threads, clock=clock))
    await kernel.start([Permission, Bench])
    session = Session(principal="bench", source="bench")
    watch = Stopwatch()
    for _ in range(count // BATCH):
        await batch(kernel, session, _envelopes(event))
    sample = watch.sample(count // BATCH * BATCH)
    await kernel.stop()
    await store.close()
    threads.close()
    return sample


def _envelopes(event: str) -> Iterator[EventEnvelope]:
    return (EventEnvelope(name=event, raw=RAW) for _ in range(BATCH))


async def batch(kernel: Kernel, session: Session, envelopes: Iterator[EventEnvelope]) -> None:
    """:data:`BATCH` requests, as many as a connection hands over in one turn; they have their answers."""
    ended = asyncio.get_running_loop().create_future()
    left = BATCH

    def done(token: Any, raw: bytes | None, error: KSIError | None) -> None:
        nonlocal left
        if error is not None:
            raise error
        left -= 1
        if left == 0:
            ended.set_result(None)

    dispatch = kernel.router.dispatch
    for envelope in envelopes:
        dispatch(envelope, session, done, None)
    await ended
