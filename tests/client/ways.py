"""The three ways to one daemon in the process of the test, a client of each, and a bad network in between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from ksi.client.client import EventClient
from ksi.core.config import HttpSection
from ksi.core.home import Home
from ksi.kernel.router import Limits
from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.harness import EventTestHarness
from ksi.testing.proxy import Faults, FaultyProxy
from ksi.transport.http.assembly import server_of
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer
from tests.client.work import Work

Way = Literal["unix", "ws", "http"]
WAYS: tuple[Way, ...] = ("unix", "ws", "http")


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
async def opened(path: Path, *, disconnect_grace: float = 10.0) -> AsyncIterator[Ways]:
    """The doors, until the end of the block."""
    tokens = TokenStore(path / "tokens.json")
    async with AsyncExitStack() as stack:
        ksi = await stack.enter_async_context(
            EventTestHarness(
                "ksi.plugins.system:System",
                "ksi.plugins.event:Event",
                Work,
                limits=Limits(disconnect_grace=disconnect_grace),
            )
        )
        unix = UnixServer(ksi.kernel.router, path / "daemon.sock", tokens=tokens)
        await unix.start()
        stack.push_async_callback(unix.close, 0.5)
        http = server_of(ksi.kernel.services, tokens, HttpSection(port=0), Home(path), unix.common)
        await http.start()
        stack.push_async_callback(http.close, 1.0)
        stack.push_async_callback(ksi.kernel.router.drain, 0.5)
        yield Ways(ksi, unix.path, int(http.url.rpartition(":")[2]), tokens.create("uid:1000"))


async def client_of(daemon: DaemonProcess, way: Way, **options: Any) -> EventClient:
    """A client over ``way`` of a daemon in a process of its own."""
    if way == "unix":
        return daemon.client(**options)
    url, token = await daemon.http_url(), daemon.home.token_file.read_text().strip()
    return EventClient(url if way == "http" else f"{url.replace('http', 'ws', 1)}/v1/ws", token=token, **options)


def free_port() -> int:
    """One that a daemon can have again after its restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
