"""The same requests as people write them in Python: one client of each library, many coroutines that await answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

from ksi.bench.measure import Sample, Stopwatch
from ksi.bench.plugin import item
from ksi.client.client import EventClient

Call = Callable[[], Awaitable[object]]
BATCH = 64
HOST = "127.0.0.1"


async def together(call: Call, *, at_once: int, count: int) -> float:
    """Seconds that ``count`` calls take, ``at_once`` of them under way."""

    async def caller() -> None:
        for _ in range(count // at_once):
            await call()

    begin = perf_counter()
    await asyncio.gather(*[caller() for _ in range(at_once)])
    return perf_counter() - begin


async def dispatched(call: Call, count: int) -> Sample:
    """``count`` calls within this process, a batch at once."""
    watch = Stopwatch()
    await together(call, at_once=BATCH, count=count)
    return watch.sample(count // BATCH * BATCH)


async def ksi(home: Path, event: str, *, at_once: int, count: int) -> float:
    data = item(1)
    async with EventClient(home=home) as client:
        return await together(lambda: client.request(event, data), at_once=at_once, count=count)


async def nats(url: str, subject: str, body: bytes, *, at_once: int, count: int) -> float:
    import nats as library  # an extra, as those below

    connection = await library.connect(url)
    took = await together(lambda: connection.request(subject, body), at_once=at_once, count=count)
    await connection.close()
    return took


async def jetstream(url: str, body: bytes, *, at_once: int, count: int) -> float:
    """Its acknowledgement comes before the file is synced."""
    import nats as library

    connection = await library.connect(url)
    stream = connection.jetstream()
    await stream.add_stream(name="items", subjects=["item.*"])
    took = await together(lambda: stream.publish("item.1", body), at_once=at_once, count=count)
    await stream.delete_stream("items")
    await connection.close()
    return took


async def grpc(port: int, path: str, body: bytes, *, at_once: int, count: int) -> float:
    from grpc import aio

    async with aio.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.unary_unary(path)
        return await together(lambda: call(body), at_once=at_once, count=count)
