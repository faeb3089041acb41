"""The three ways to one daemon in the process of the test, a client of each, and a bad network in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from ksi.client.client import EventClient
from ksi.core.config import HttpSection
from ksi.core.events import fact
from ksi.core.home import Home
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from ksi.testing.proxy import Faults, FaultyProxy
from ksi.transport.http.assembly import server_of
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer

Way = Literal["unix", "ws", "http"]
WAYS: tuple[Way, ...] = ("unix", "ws", "http")


@fact("work:done")
class Done(msgspec.Struct, frozen=True):
    """A number was worked on."""

    number: int


class Work(AsyncPlugin):
    """What is asked over each way; it says what became of it."""

    name = "work"

    async def initialize(self) -> None:
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.said: list[str] = []
        self.made = 0

    @event("work:do", key=lambda _: "work")
    async def do(self, number: int, context: EventContext) -> int:
        """Do it once."""
        context.append("work/all", Done(number))
        return number

    @query("work:wait")
    async def wait(self) -> str:
        """Wait until the test opens the gate."""
        return await self._held("query")

    @event("work:hold")
    async def hold(self) -> str:
        """The same as a command."""
        return await self._held("command")

    @stream("work:count", on_disconnect="detach")
    async def count(self, to: int) -> AsyncIterator[int | End[str]]:
        """Count, whoever listens."""
        for number in range(1, to + 1):
            yield number
            if number % 8 == 0:
                await asyncio.sleep(0.01)
        yield End("counted")

    @stream("work:talk")
    async def talk(
        self, silent: bool = False, to: int = 1_000_000
    ) -> AsyncIterator[dict[str, str] | End[dict[str, int]]]:
        """Talk, for one who listens; a cancel is answered with what was used."""
        self.began.set()
        try:
            if silent:
                await self.gate.wait()
            for number in range(to):
                self.made = number + 1
                yield {"text": f"word {number}"}
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.said.append("stream cancelled")
            yield End({"used": self.made})
            raise
        self.said.append("stream ended")
        yield End({"used": self.made})

    async def _held(self, what: str) -> str:
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.said.append(f"{what} cancelled")
            raise
        return "open"


class Ways:
    """A daemon's doors."""

    def __init__(self, ksi: EventTestHarness, socket: Path, port: int, token: str) -> None:
        self.ksi = ksi
        self.socket = socket
        self.port = port
        self.token = token

    @property
    def work(self) -> Work:
        plugin = self.ksi.kernel.plugins._loaded["work"].plugin
        assert isinstance(plugin, Work)
        return plugin

    def client(self, way: Way, proxy: FaultyProxy | None = None, **options: Any) -> EventClient:
        """A client over ``way``."""
        if way == "unix":
            return EventClient(self.socket if proxy is None else proxy.path, token=self.token, **options)
        port = self.port if proxy is None else proxy.port
        url = f"http://127.0.0.1:{port}" if way == "http" else f"ws://127.0.0.1:{port}/v1/ws"
        return EventClient(url, token=self.token, **options)

    def proxy(self, way: Way, *, seed: int, faults: Faults | None = None) -> FaultyProxy:
        """A bad network on ``way``."""
        target = self.socket if way == "unix" else ("127.0.0.1", self.port)
        return FaultyProxy(target, seed=seed, faults=faults)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        async with asyncio.timeout(10):
            while self.ksi.kernel.router.under_way or self.ksi.kernel.router.queries:  # noqa: ASYNC110  # turns of
                await asyncio.sleep(0)  # the loop in which the server reads


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Ways]:
    """The doors, until the end of the block."""
    tokens = TokenStore(path / "tokens.json")
    async with AsyncExitStack() as stack:
        ksi = await stack.enter_async_context(
            EventTestHarness("ksi.plugins.system:System", "ksi.plugins.event:Event", Work)
        )
        unix = UnixServer(ksi.kernel.router, path / "daemon.sock", tokens=tokens)
        await unix.start()
        stack.push_async_callback(unix.close, 0.5)
        http = server_of(ksi.kernel.services, tokens, HttpSection(port=0), Home(path), unix.common)
        await http.start()
        stack.push_async_callback(http.close, 1.0)
        stack.push_async_callback(ksi.kernel.router.drain, 0.5)
        yield Ways(ksi, unix.path, int(http.url.rpartition(":")[2]), tokens.create("uid:1000"))
