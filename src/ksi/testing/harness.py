"""A whole KSI in the process of the test: kernel, plugins and a log, without sockets, files and daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock, SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIConnectionError, KSIError, UnavailableError
from ksi.core.events import MAIN, Filter, RecordedEvent
from ksi.core.ports import Done, Journal, Unit
from ksi.core.threads import InlineThreads, settle
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.door import Session, StreamCall
from ksi.kernel.joining import answer_of
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.recovery import Recovered
from ksi.kernel.router import Limits
from ksi.store.memory import InMemoryEventStore
from ksi.testing.loop import VirtualClockLoop

Data = Mapping[str, Any] | msgspec.Struct
CREDIT = 16


class EventTestHarness:
    """Plugins under test, on a log that outlives restarts and crashes of their kernel.

    ::

        async with EventTestHarness(CounterPlugin) as ksi:
            assert await ksi.request("counter:add", {"amount": 2}) == {"total": 2}
            await ksi.crash()
            assert [fact.data for fact in await ksi.facts("counter:*")] == [{"amount": 2}]

    On a virtual loop (``@pytest.mark.virtual``) its clock is the loop's; else it is the machine's.
    """

    def __init__(
        self,
        *plugins: type[AsyncPlugin] | str,
        log: Journal | None = None,
        principal: str = "tester",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        limits: Limits | None = None,
        home: Path | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.clock: Clock = loop.clock if isinstance(loop, VirtualClockLoop) else SystemClock()
        self.log: Journal = log or InMemoryEventStore(clock=self.clock)
        self._owns_log = log is None
        self.recovered = Recovered()
        self._plugins: Sequence[type[AsyncPlugin] | str] = plugins
        self._session = Session(principal=principal, source="test")
        self._settings = settings
        self._limits = limits
        self._home = home
        self._pending: set[asyncio.Future[bytes]] = set()
        self._streams: set[HarnessStream] = set()
        self._line = _Line(self.log)
        self._kernel: Kernel | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._kernel is not None:
            await self._kernel.stop()
        if self._owns_log:
            await self.log.close()

    @property
    def kernel(self) -> Kernel:
        """The kernel of this life; another one after a restart or a crash."""
        if self._kernel is None:
            raise RuntimeError("the harness is not started: async with EventTestHarness(…) as ksi")
        return self._kernel

    async def request(
        self,
        event: str,
        data: Data | None = None,
        *,
        event_id: str | None = None,
        timeout: float | None = None,
        subject: str | None = None,
        branch: str = MAIN,
    ) -> Any:
        """The answer of ``event`` as builtins. Raises what its handler raised, as a client would see it.

        Args:
            event_id: Give the same one again to retry.
            timeout: Seconds until the caller's deadline.
            subject: Whose personal data this is.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending.add(future)
        envelope = self._envelope(event, data, event_id, timeout)
        envelope.subject, envelope.branch = subject, branch
        call = self.kernel.router.dispatch(envelope, self._session, _settle, future)
        try:
            return await answer_of(future, call)
        finally:
            self._pending.discard(future)

    def stream(
        self, event: str, data: Data | None = None, *, event_id: str | None = None, branch: str = MAIN
    ) -> HarnessStream:
        """Open ``event`` as a stream, as a reader that is always ready for more."""
        opened = HarnessStream()
        self._streams.add(opened)
        envelope = self._envelope(event, data, event_id, None)
        envelope.branch = branch
        opened.call = self.kernel.router.open_stream(envelope, self._session, opened, CREDIT)
        return opened

    async def facts(self, pattern: str = "*") -> list[RecordedEvent]:
        """Recorded facts whose names fit ``pattern``, in order."""
        return [event async for event in self.log.read_all((Filter(names=(pattern,)),))]

    async def restart(self) -> None:
        """Stop the kernel, draining it, and start another on the same log."""
        await self.kernel.stop()
        await self._start()

    async def crash(self) -> None:
        """End the kernel in the middle of what it does, and start another on the same log.

        What was not written to the log by now never is, and who waits gets a KSIConnectionError. Handlers are
        cancelled, for a process can not forget its own tasks, but nothing that they do then is recorded.
        """
        self._line.cut()
        self._hang_up()
        kernel = self.kernel
        await kernel.router.drain(0)
        await kernel.plugins.stop()
        await kernel.router.close()
        await self._start()

    async def _start(self) -> None:
        self._line = _Line(self.log)
        # A proxy has every method of the log that it stands for.
        ports = Ports(journal=cast(Journal, self._line), threads=InlineThreads(), clock=self.clock)
        self._kernel = Kernel(ports, limits=self._limits, home=self._home, settings=self._settings)
        self.recovered = await self._kernel.start(self._plugins)

    def _hang_up(self) -> None:
        lost = KSIConnectionError("the daemon crashed")
        for future in self._pending:
            settle(future, None, lost)
        for stream in self._streams:
            stream.end(None, lost)
        self._streams.clear()

    def _envelope(self, event: str, data: Data | None, event_id: str | None, timeout: float | None) -> EventEnvelope:
        now = self.clock.time_us()
        return EventEnvelope(
            name=event,
            raw=canonical.encode(data or {}),
            id=None if event_id is None else ids.parse(event_id),
            principal=self._session.principal,
            source=self._session.source,
            time_us=now,
            deadline_us=None if timeout is None else now + round(timeout * 1_000_000),
        )


class HarnessStream:
    """A stream under way: iterate over its chunks; then :attr:`answer` is its end value."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.addresses: list[str | None] = []
        """Where reading goes on after each chunk that came."""
        self.call: StreamCall | None = None
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()  # bounded by the credit that it gives
        self._error: KSIError | None = None
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (raw := await self._arrived.get()) is not None:
            if self.call is not None:
                self.call.grant(1)
            yield canonical.decode(raw)
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Ask for its end, which still comes."""
        if self.call is not None:
            self.call.cancel()

    def disconnect(self) -> None:
        """Be a reader that is gone."""
        if self.call is not None:
            self.call.disconnected()

    # ── as the router sees it: a Sink ────────────────────────────────────────────────────────────────────────────────
    def opened(self, at: str) -> None:
        """Nobody is disconnected here before the first chunk."""

    def chunk(self, at: str | None, raw: bytes) -> None:
        self.addresses.append(at)
        self._arrived.put_nowait(raw)

    def gap(self, info: Mapping[str, Any]) -> None:
        """Nothing is dropped: the reader is always ready."""

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        if self._ended:
            return
        self._ended = True
        self.answer = None if raw is None else canonical.decode(raw)
        self._error = error
        self._arrived.put_nowait(None)


class _Line:
    """What lies between one life of a kernel and the log. Once it is cut nothing passes, not even an answer."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._is_cut = False

    def cut(self) -> None:
        self._is_cut = True

    def write(self, unit: Unit, done: Done) -> None:
        if self._is_cut:
            asyncio.get_running_loop().call_soon(done, None, _gone())
        else:
            self._journal.write(unit, lambda *end: done(None, _gone()) if self._is_cut else done(*end))

    def __getattr__(self, name: str) -> Any:
        if self._is_cut and name not in ("unregister", "view"):
            raise _gone()
        return getattr(self._journal, name)


def _gone() -> KSIError:
    return UnavailableError("the log", "the daemon crashed")


def _settle(future: asyncio.Future[bytes], raw: bytes | None, error: KSIError | None) -> None:
    settle(future, raw, error)
