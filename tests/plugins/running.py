"""A real kernel on the log in memory with built-in services, asked as a connection asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ksi.core import canonical
from ksi.core.clock import SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.threads import SystemThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.door import Session, StreamCall
from ksi.kernel.plugin import AsyncPlugin
from ksi.store.memory import InMemoryEventStore

OWNER = "uid:1000"


class Reader:
    """The reading end of a stream: what came, in order, as (address, data), and how it ended."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[tuple[str | None, Any]] = asyncio.Queue()
        self.gaps: list[Mapping[str, Any]] = []
        self.began: str | None = None
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.call: StreamCall | None = None

    def opened(self, at: str) -> None:
        self.began = at

    def chunk(self, at: str | None, raw: bytes) -> None:
        self._items.put_nowait((at, canonical.decode(raw)))

    def gap(self, info: Mapping[str, Any]) -> None:
        self.gaps.append(info)

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        self.ended.set_exception(error) if error else self.ended.set_result(canonical.decode(raw or b"null"))

    async def take(self, count: int) -> list[tuple[str | None, Any]]:
        return [await self._items.get() for _ in range(count)]

    async def take_until(self, address: str) -> list[tuple[str | None, Any]]:
        """What comes up to ``address``, and that too."""
        taken = await self.take(1)
        while taken[-1][0] != address:
            taken += await self.take(1)
        return taken

    async def end_of(self) -> KSIError | None:
        """Cancel it; the answer is the error that it ended with."""
        assert self.call is not None
        self.call.cancel()
        await asyncio.wait([self.ended])
        error = self.ended.exception()
        assert error is None or isinstance(error, KSIError)
        return error


class Daemon:
    """A kernel, asked."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.log = kernel.ports.journal

    async def ask(self, event: str, /, *, principal: str = OWNER, correlation: str | None = None, **fields: Any) -> Any:
        """The answer as a client gets it. Raises the error that a client gets."""
        envelope = EventEnvelope.create(event, fields, "test", principal=principal, correlation=correlation)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(token: Any, raw: bytes | None, error: KSIError | None) -> None:
            answered.set_exception(error) if error else answered.set_result(canonical.decode(raw or b"null"))

        self.kernel.router.dispatch(envelope, Session(principal=principal, source="test"), done, None)
        return await answered

    def follow(self, event: str, /, *, principal: str = OWNER, credit: int = 1000, **fields: Any) -> Reader:
        reader = Reader()
        envelope = EventEnvelope.create(event, fields, "test", principal=principal)
        session = Session(principal=principal, source="test")
        reader.call = self.kernel.router.open_stream(envelope, session, reader, credit)
        return reader


@asynccontextmanager
async def running(*plugins: type[AsyncPlugin], services: Mapping[type, Any] | None = None) -> AsyncIterator[Daemon]:
    threads = SystemThreads()
    clock = SystemClock()
    kernel = Kernel(Ports(journal=InMemoryEventStore(clock=clock), threads=threads, clock=clock))
    for interface, implementation in (services or {}).items():
        kernel.services.register(interface, implementation)
    await kernel.start(plugins)
    try:
        assert [plugin.problem for plugin in kernel.plugins.list_plugins() if plugin.status == "failed"] == []
        yield Daemon(kernel)
    finally:
        await kernel.stop()
        await kernel.ports.journal.close()
        threads.close()
