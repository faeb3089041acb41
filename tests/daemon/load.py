"""Clients that go on commanding whatever becomes of their daemon, and a reader that follows its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import msgspec

from ksi.client.client import EventClient, Options
from ksi.core import ids
from ksi.core.errors import KSIError
from ksi.core.result import Result
from ksi.testing.daemon_process import DaemonProcess

CLIENTS, WORKERS, COUNTERS = 4, 6, 5
LAST = "last"
"""Counter that is added to when all else has its answer."""


class Asked(msgspec.Struct, frozen=True):
    """A command and what came of it; ``worker`` sent it when its command before had been answered."""

    worker: int
    event: str
    fields: Mapping[str, Any]
    event_id: str
    result: Result[Any, KSIError]


class Load:
    """Workers, each with one command under way at any time."""

    def __init__(self, random: Random) -> None:
        self.asked: list[Asked] = []
        self._random = random
        self._is_over = False
        self._news = asyncio.Event()
        self._numbers = iter(range(1, 1 << 62))

    async def work(self, worker: int, client: EventClient) -> None:
        while not self._is_over:
            await self.ask(worker, client, *self._command())

    async def ask(self, worker: int, client: EventClient, event: str, fields: Mapping[str, Any]) -> None:
        event_id = ids.text(ids.new_id())
        result = await client.try_request(event, fields, options=Options(event_id=event_id))
        self.asked.append(Asked(worker, event, fields, event_id, result))
        self._news.set()

    async def answers(self, count: int) -> None:
        """Wait for ``count`` more."""
        wanted = len(self.asked) + count
        while len(self.asked) < wanted:
            self._news.clear()
            await self._news.wait()

    def end(self) -> None:
        """Let every worker have the answer that it waits for, and no more."""
        self._is_over = True

    def _command(self) -> tuple[str, dict[str, Any]]:
        one, other = (f"c{number}" for number in self._random.sample(range(COUNTERS), 2))
        match self._random.randrange(6):
            case 0:
                return "ledger:transfer", {"source": one, "target": other}
            case 1:
                return "ledger:note", {"number": next(self._numbers)}
            case 2:
                return "ledger:pay", {"number": next(self._numbers)}
            case _:
                return "counter:add", {"name": one}


class Reader:
    """Follows all facts from the first one on."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def read(self, client: EventClient) -> None:
        """Until the fact that ends the load."""
        async with client.subscribe("*", after="start") as events:
            async for chunk in events:
                self.seen.append(chunk.data)
                if chunk.data["stream"] == f"counter/{LAST}":
                    return


@asynccontextmanager
async def under_load(daemon: DaemonProcess, random: Random) -> AsyncIterator[tuple[Load, Reader]]:
    """The block runs beside the load; at its end every command has been answered and the reader has read all."""
    load, reader = Load(random), Reader()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(daemon.client()) for _ in range(CLIENTS + 1)]
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(reader.read(clients[CLIENTS]))
            working = [
                tasks.create_task(load.work(number, clients[number % CLIENTS])) for number in range(CLIENTS * WORKERS)
            ]
            yield load, reader
            load.end()
            await asyncio.gather(*working)
            await load.ask(-1, clients[0], "counter:add", {"name": LAST})
            await reading
