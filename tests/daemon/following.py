"""One subscription that follows the log while its daemon is stopped and killed again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from uuid import uuid4

from ksi.client.client import EventClient, Options
from ksi.core.errors import ShuttingDownError
from ksi.testing.daemon_process import RECONNECT_TIMEOUT, DaemonProcess
from tests.client.ways import Way, client_of, free_port


class Followed:
    """Numbers that are written in order, and what a subscription gives of them."""

    def __init__(self) -> None:
        self.written = 0
        self.read: list[int] = []
        self.positions: list[int] = []
        self._news = asyncio.Condition()

    async def write(self, client: EventClient) -> None:
        """One after the other, until it is cancelled; that one may be written or not."""
        while True:
            await self._write_once(client, Options(event_id=str(uuid4())))
            self.written += 1

    async def _write_once(self, client: EventClient, options: Options) -> None:
        while True:
            try:
                await client.request("state:set", {"key": "n", "value": self.written}, options=options)
            except ShuttingDownError:
                await asyncio.sleep(0)  # the next try waits for the connection to the next daemon
            else:
                return

    async def follow(self, client: EventClient) -> None:
        async with client.subscribe("state:", after="checkpoint", subscriber="follower") as events:
            async for event in events:
                self.read.append(event.data["data"]["value"])
                self.positions.append(event.data["position"])
                async with self._news:
                    self._news.notify_all()

    async def until_read(self, count: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: len(self.read) >= count)


async def followed(home: Path, *, restarts: int, seed: int, way: Way = "unix") -> Followed:
    """What one subscription has given over ``restarts`` ends of the daemon, half of them ``kill -9``."""
    random, numbers = Random(seed), Followed()
    async with (
        DaemonProcess(home, settings={"http.port": free_port()}) as daemon,
        daemon.client() as writer,
        await client_of(daemon, way, reconnect_timeout=RECONNECT_TIMEOUT) as reader,
        asyncio.TaskGroup() as tasks,  # when one of them fails, so does the test
    ):
        following = tasks.create_task(numbers.follow(reader))
        writing = tasks.create_task(numbers.write(writer))
        for _ in range(restarts):
            await numbers.until_read(len(numbers.read) + random.randrange(1, 200))
            await (daemon.kill() if random.random() < 0.5 else daemon.stop())
            await daemon.start()
        await numbers.until_read(len(numbers.read) + 1)
        writing.cancel()
        await numbers.until_read(numbers.written)
        following.cancel()
    return numbers
