"""Dispatch in the process: envelope, middleware, typed handler, without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from ksi.bench.measure import Contestant, Row, Sample
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
                Contestant("direct await through a dict", lambda: uvloop.run(_direct(count))),
                Contestant("KSI, msgspec, inline", lambda: uvloop.run(_kernel("bench:echo_inline", count))),
                Contestant("KSI, msgspec, async", lambda: uvloop.run(_kernel("bench:echo_async", count))),
                Contestant("KSI, pydantic, inline", lambda: uvloop.run(_kernel("bench:model_inline", count))),
            ],
        )
    ]


async def _direct(count: int) -> Sample:
    """The floor: a table of functions, no envelope, no checks, no types."""
    payload = msgspec.json.decode(RAW, type=Item)

    async def echo(received: Item) -> Item:
        return received

    table: dict[str, Callable[[Item], Awaitable[Item]]] = {"bench:echo": echo}
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        await table["bench:echo"](payload)
    return _sample(count, begin, cpu)


async def _kernel(event: str, count: int) -> Sample:
    threads, clock, store = SystemThreads(), SystemClock(), InMemoryEventStore()
    kernel = Kernel(Ports(journal=store, threads=threads, clock=clock))
    await kernel.start([Permission, Bench])
    session = Session(principal="bench", source="bench")
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(count // BATCH):
        await _batch(kernel, event, session)
    sample = _sample(count // BATCH * BATCH, begin, cpu)
    await kernel.stop()
    await store.close()
    threads.close()
    return sample


async def _batch(kernel: Kernel, event: str, session: Session) -> None:
    """As many requests as a connection hands over in one turn."""
    ended = asyncio.get_running_loop().create_future()
    left = BATCH

    def done(token: Any, raw: bytes | None, error: KSIError | None) -> None:
        nonlocal left
        if error is not None:
            raise error
        left -= 1
        if left == 0:
            ended.set_result(None)

    for number in range(BATCH):
        kernel.router.dispatch(EventEnvelope(name=event, raw=RAW), session, done, number)
    await ended


def _sample(count: int, begin: float, cpu: float) -> Sample:
    return Sample(count / (time.perf_counter() - begin), (time.process_time() - cpu) / count * 1e6)
