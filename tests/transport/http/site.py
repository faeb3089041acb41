"""A whole KSI in the process of the test, with HTTP on a real port; and the plugin that these tests ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from ksi.core import errors
from ksi.core.clock import Clock, SystemClock
from ksi.core.config import HttpSection
from ksi.core.events import fact
from ksi.core.home import Home
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Limits as RouterLimits
from ksi.testing.harness import EventTestHarness
from ksi.transport.budget import Budget, Limits
from ksi.transport.connection import Common
from ksi.transport.http.assembly import server_of
from ksi.transport.http.server import HttpServer
from ksi.transport.tokens import TokenStore

PLUGINS = ("ksi.plugins.system:System", "ksi.plugins.permission:Permission", "ksi.plugins.state:State")
PRINCIPAL = "uid:1000"


@fact("probe:done")
class Done(msgspec.Struct, frozen=True):
    """An act was done."""

    name: str


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One field of each kind that a query string has to say."""

    text: str = ""
    number: int | None = None
    ratio: float = 0.0
    flag: bool = False
    names: tuple[str, ...] = ()
    sizes: list[int] | None = None
    nested: dict[str, int] = {}
    moment: float | str | None = None
    either: int | list[int] = 0


class Probe(AsyncPlugin):
    """Whatever these tests need."""

    name = "probe"

    async def initialize(self) -> None:
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.ended: list[str] = []
        self.made: dict[str, int] = {}

    @query("probe:ask")
    async def ask(self, request: Asked) -> Asked:
        """Give back what was asked."""
        return request

    @query("probe:wait")
    async def wait(self) -> str:
        """Wait until the test opens the gate."""
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return "open"

    @event("probe:act")
    async def act(self, name: str, context: EventContext) -> str:
        """The same as a command."""
        self.began.set()
        await self.gate.wait()
        context.append(f"probe/{name}", Done(name))
        self.ended.append(name)
        return name

    @query("probe:fail")
    async def fail(self, kind: str, arguments: dict[str, Any] | None = None) -> None:
        """Raise an error of this class."""
        raise getattr(errors, kind)(**(arguments or {}))

    @query("probe:break")
    async def break_down(self) -> None:
        """Raise what no handler should."""
        raise ZeroDivisionError("a secret of the handler")

    @query("probe:large")
    async def large(self, size: int) -> str:
        """Answer with ``size`` letters."""
        return "x" * size

    @stream("probe:count")
    async def count(self, name: str = "count", to: int = 3, size: int = 0) -> AsyncIterator[int | str | End[str]]:
        """Count, in chunks of at least ``size`` bytes."""
        try:
            for number in range(1, to + 1):
                self.made[name] = number
                yield "x" * size if size else number
        except asyncio.CancelledError:
            self.ended.append(name)
            raise
        yield End("counted")

    @stream("probe:held")
    async def held(self, name: str = "held") -> AsyncIterator[int | End[str]]:
        """Say one, then wait for the gate, then say two."""
        self.began.set()
        yield 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append(name)
            raise
        yield 2
        yield End("open")

    @stream("probe:flood", record=False)
    async def flood(self, name: str, to: int, size: int) -> AsyncIterator[str]:
        """Say much, and record nothing."""
        for number in range(1, to + 1):
            self.made[name] = number
            yield "x" * size

    @stream("probe:ticks", record=False)
    async def ticks(self, to: int = 3) -> AsyncIterator[int]:
        """Count without a record."""
        for number in range(to):
            yield number


class Site:
    """The server with its tokens."""

    def __init__(self, ksi: EventTestHarness, server: HttpServer, tokens: TokenStore, token: str) -> None:
        self.ksi = ksi
        self.server = server
        self.tokens = tokens
        self.token = token

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def probe(self) -> Probe:
        plugins = self.ksi.kernel.plugins._loaded
        probe = plugins["probe"].plugin
        assert isinstance(probe, Probe)
        return probe

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop turn until it is so."""
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110  # turns of the loop in which the server reads
                await asyncio.sleep(0)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client with the token."""
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10, trust_env=False, **options)


@asynccontextmanager
async def serving(
    path: Path,
    section: HttpSection | None = None,
    *,
    limits: Limits | None = None,
    clock: Clock | None = None,
    plugins: tuple[type[AsyncPlugin] | str, ...] = (*PLUGINS, "ksi.plugins.event:Event"),
    stall_timeout: float = 60.0,
    disconnect_grace: float = 0.01,
) -> AsyncIterator[Site]:
    """A site, until the end of the block."""
    limits, clock = limits or Limits(), clock or SystemClock()
    tokens = TokenStore(path / "tokens.json", clock=clock)
    kernel_limits = RouterLimits(stall_timeout=stall_timeout, disconnect_grace=disconnect_grace)
    async with EventTestHarness(*plugins, Probe, limits=kernel_limits) as ksi:
        common = Common(
            door=ksi.kernel.router,
            limits=limits,
            budget=Budget(limits),
            clock=clock,
            server="ksi/test",
            connections=set(),
        )
        server = server_of(ksi.kernel.services, tokens, section or HttpSection(port=0), Home(path), common)
        await server.start()
        try:
            yield Site(ksi, server, tokens, tokens.create(PRINCIPAL))
        finally:
            await ksi.kernel.router.drain(0.5)
            await server.close(2.0)
