"""The router: takes requests at the door, finds their row, keeps track of what is under way."""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import logging
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any
from uuid import UUID

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope, min_deadline
from ksi.core.errors import (
    InterruptedRunError,
    KSIError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    QueryWroteError,
    ShuttingDownError,
    UnknownEventError,
    UnsupportedError,
)
from ksi.core.events import Filter, Query
from ksi.core.ports import Journal, Known, Outcome, Unit
from ksi.core.threads import Threads, settle
from ksi.kernel.context import EventContext
from ksi.kernel.denials import Denials
from ksi.kernel.door import Call, Done, Session, Sink, StreamCall
from ksi.kernel.effects import Effects, Recorded
from ksi.kernel.execution import Execution
from ksi.kernel.keys import Keys
from ksi.kernel.nested import Inbox
from ksi.kernel.request import conflicting
from ksi.kernel.resume import LiveStreams, Resumed, ended, request_of
from ksi.kernel.services import ServiceRegistry
from ksi.kernel.streaming import UNLIMITED, EndOnly, Streaming
from ksi.kernel.table import AsyncQuery, Row
from ksi.kernel.wheel import Wheel
from ksi.kernel.writing import error_json

_log = logging.getLogger("ksi.kernel")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the router, in seconds."""

    stall_timeout: float = 60.0
    drain_timeout: float = 10.0


class Router:
    """Implements :class:`ksi.kernel.door.Door`. One for each daemon; all of it on one event loop."""

    def __init__(
        self, *, journal: Journal, threads: Threads, clock: Clock, services: ServiceRegistry, limits: Limits
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.journal = journal
        self.threads = threads
        self.clock = clock
        self.services = services
        self.limits = limits
        self.table: dict[str, Row] = {}
        self.keys = Keys()
        self.wheel = Wheel(self.loop)
        self.streams = LiveStreams()
        self.running: dict[bytes, Execution] = {}
        self.queries: set[AsyncQuery] = set()
        self.readers: set[asyncio.Task[None]] = set()
        self.recorded_effects: dict[bytes, Recorded] = {}
        self.is_draining = False
        self._denials = Denials(self)
        self._base = contextvars.copy_context()
        self._idle: asyncio.Event | None = None

    # ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def dispatch(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        row = self.table.get(envelope.name)
        if row is None:
            done(token, None, self.unknown(envelope.name))
            return None
        return row.dispatch(envelope, session, done, token)

    def accept(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        row = self.table.get(envelope.name)
        try:
            if row is None:
                raise self.unknown(envelope.name)
            if not row.is_recorded:
                raise UnsupportedError(f"{row.name!r} is not recorded: there is nothing to go on without you")
            self._check(row, envelope, session, is_nested=False)
            row.payload(envelope)
        except KSIError as error:
            self.refuse(error, envelope, session, done, token)
            return
        self.loop.create_task(self._accept(envelope, session, done, token), context=self.fresh_context())

    async def _accept(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        known = await self._find(envelope.event_id)
        if known is not None:
            same = Execution.matches(self._shell(envelope, session), known)
            done(token, *((self._receipt(envelope), None) if same else (None, conflicting(envelope))))
            return

        def opened(committed: Any, error: KSIError | None) -> None:
            done(token, None if error else self._receipt(envelope), error)
            if error is None:
                self.start_recorded(envelope, session)

        self.journal.write(Unit(origin=envelope, request=True), opened)

    def open_stream(self, envelope: EventEnvelope, session: Session, sink: Sink, credit: int) -> StreamCall:
        row = self.table.get(envelope.name)
        if row is not None and row.is_stream and row.handlers:
            return self._open_stream(row, envelope, session, sink, credit)
        ending = EndingCall(sink)
        ending.call = self.dispatch(envelope, session, ending.done, None)
        return ending

    def _open_stream(self, row: Row, envelope: EventEnvelope, session: Session, sink: Sink, credit: int) -> StreamCall:
        is_explicit = envelope.id is not None
        try:
            self._check(row, envelope, session, is_nested=False)
            payload = row.payload(envelope)
        except KSIError as error:
            ending = EndingCall(sink)
            self.refuse(error, envelope, session, ending.done, None)
            return ending
        streaming = Streaming(self, row, envelope, session, payload, sink, credit)
        running = self.running.get(envelope.event_id) if is_explicit else None
        if running is not None:
            if running.matches(envelope):
                return self.resume(f"{row.category}/{ids.text(envelope.event_id)}@0", session, sink, credit)
            sink.end(None, conflicting(envelope))
            return EndingCall(sink)
        self._start(streaming, looks_first=is_explicit and row.is_recorded)
        return streaming

    def resume(self, address: str, session: Session, sink: Sink, credit: int) -> StreamCall:
        return Resumed(self, address, session, sink, credit)

    # ── admit ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def dispatch_row_for(self, row: Row) -> Callable[..., Call | None]:
        """The general way of a row's requests."""

        def dispatch(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
            return self._admit(row, envelope, session, done, token, None)

        return dispatch

    def _admit(
        self, row: Row, envelope: EventEnvelope, session: Session, done: Done, token: Any, parent: Execution | None
    ) -> Execution | None:
        is_explicit = envelope.id is not None
        try:
            self._check(row, envelope, session, is_nested=parent is not None)
            payload = row.payload(envelope)
            locks = row.locks(payload)
        except KSIError as error:
            self.refuse(error, envelope, session, done, token)
            return None
        running = self.running.get(envelope.id) if is_explicit and row.is_recorded else None  # type: ignore[arg-type]  # explicit
        if running is not None:
            self._join(running, envelope, done, token)
            return None
        execution = self._execution(row, envelope, session, payload, done, token, parent)
        execution.locks = locks
        if envelope.cause is not None and parent is None:
            execution.above = self.running.get(envelope.cause)
        looks_first = row.is_recorded and is_explicit and (parent is None or parent.is_rerun)
        self._start(execution, looks_first=looks_first)
        return execution

    def _check(self, row: Row, envelope: EventEnvelope, session: Session, *, is_nested: bool) -> None:
        if self.is_draining and not is_nested and (row.is_recorded or row.is_stream):
            raise ShuttingDownError
        row.check(envelope, session, is_nested=is_nested)

    def _execution(
        self, row: Row, envelope: EventEnvelope, session: Session, payload: Any, done: Done, token: Any,
        parent: Execution | None,
    ) -> Execution:  # fmt: skip
        if row.is_stream:
            return Streaming(self, row, envelope, session, payload, EndOnly(done, token), UNLIMITED, parent)
        return Execution(self, row, envelope, session, payload, done, token, parent)

    def _start(self, execution: Execution, *, looks_first: bool) -> None:
        if not looks_first:
            execution.start()
            return
        self.running[execution.envelope.event_id] = execution
        self.loop.create_task(self._start_unless_known(execution), context=self.fresh_context())

    async def _start_unless_known(self, execution: Execution) -> None:
        """A request that came with an id of its own may have been here before."""
        try:
            known = await self._find(execution.envelope.event_id)
        except KSIError as error:
            execution.settle(None, error)
            return
        if known is None:
            execution.start()
        elif not execution.matches(known):
            execution.settle(None, conflicting(execution.envelope))
        elif known.outcome is not None:
            execution.settle(*ended(known.outcome))
        elif execution.row.declaration.on_crash == "interrupted":
            self.close_request(known.request, interrupted := InterruptedRunError(known.request.name))
            execution.settle(None, interrupted)
        elif execution.parent is not None:
            await self.prepare_rerun(execution, known)
            execution.start()
        else:
            execution.settle(None, OutcomeUnknownError(f"request {ids.text(known.request.event_id)}"))

    def _join(self, running: Execution, envelope: EventEnvelope, done: Done, token: Any) -> None:
        if running.matches(envelope):
            running.join(done, token)
        else:
            done(token, None, conflicting(envelope))

    def refuse(self, error: KSIError, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        """Answer with an error from before the handler began. A denial is on disk before its answer."""
        if isinstance(error, PermissionDeniedError):
            self._denials.record(envelope, error, lambda denied: done(token, None, denied))
        else:
            done(token, None, error)

    # ── recorded requests: emits, accepted ones, reruns ──────────────────────────────────────────────────────────────
    def start_recorded(self, envelope: EventEnvelope, session: Session) -> None:
        """Run a request that is on disk already; nobody waits for its answer, but ``session`` may be pushed to."""
        row = self.table.get(envelope.name)
        try:
            if row is None:
                raise self.unknown(envelope.name)
            execution = self.recorded_execution(row, envelope, session, ignore)
        except KSIError as error:
            self.close_request(envelope, error)
            return
        execution.opened = True
        execution.start()

    def recorded_execution(self, row: Row, envelope: EventEnvelope, session: Session, done: Done) -> Execution:
        """Raises what its checks and its payload's decoder raise."""
        row.check(envelope, session, is_nested=True)
        execution = self._execution(row, envelope, session, row.payload(envelope), done, None, None)
        execution.locks = row.locks(execution.payload)
        return execution

    async def write(self, unit: Unit) -> None:
        """Commit ``unit`` and wait for it. Raises what the journal says."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.journal.write(unit, lambda committed, error: settle(future, None, error))
        await future

    def close_request(self, envelope: EventEnvelope, error: KSIError) -> None:
        """Give a recorded request its end without running it."""
        unit = Unit(origin=envelope, outcome=Outcome(False, error_json(error)))
        self.journal.write(unit, lambda committed, refused: None)

    async def prepare_rerun(self, execution: Execution, known: Known) -> None:
        """Load what ``execution`` had recorded before the crash, to be served to it."""
        recorded = Recorded()
        facts = 0
        async for event in self.journal.read_all(caused_by(known.request.event_id)):
            if event.stream == "$effects":
                recorded.note(event.name, event.data)
            elif event.kind == "request":
                recorded.requested.add(event.event_id.bytes)
            elif event.kind == "fact" and event.stream != "$recovery":
                facts += 1
        self.recorded_effects[known.request.event_id] = recorded
        execution.recover(facts=facts)

    # ── nested ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def nested(self, parent: Execution, name: str, raw: bytes, timeout: float | None) -> Any:
        """A request that a handler awaits. Raises what its handler raised."""
        row, envelope = self._nested_row(parent, name, raw, timeout)
        future: asyncio.Future[bytes] = self.loop.create_future()
        call = self._admit(row, envelope, parent.session, _settle, future, parent)
        try:
            return self.decode(await future)
        except asyncio.CancelledError:
            if call is not None:
                call.cancel()
            raise

    async def nested_stream(self, parent: Execution, name: str, raw: bytes) -> AsyncGenerator[Any, None]:
        """A stream that a handler reads: its chunks, then its End."""
        row, envelope = self._nested_row(parent, name, raw, None)
        if not row.is_stream:
            raise UnsupportedError(f"{name!r} does not stream: request it")
        self._check(row, envelope, parent.session, is_nested=True)
        inbox = Inbox()
        streaming = Streaming(self, row, envelope, parent.session, row.payload(envelope), inbox, inbox.size, parent)
        self._start(streaming, looks_first=parent.is_rerun)
        try:
            async for item in inbox.read(streaming.grant):
                yield item
        finally:
            streaming.cancel()

    def _nested_row(self, parent: Execution, name: str, raw: bytes, timeout: float | None) -> tuple[Row, EventEnvelope]:
        row = self.table.get(name)
        if row is None:
            raise self.unknown(name)
        if parent.is_query and row.is_recorded:
            raise QueryWroteError(parent.envelope.name, f"request the command {name!r}")
        envelope = parent.child(name, raw, awaited=True)
        if timeout is not None:
            envelope.deadline_us = min_deadline(envelope.deadline_us, self.clock.time_us() + int(timeout * 1e6))
        return row, envelope

    async def call(self, name: str, data: Any = b"{}", *, session: Session | None = None) -> Any:
        """A request from inside the daemon that no handler stands behind: a plugin's own task, a test."""
        raw = data if isinstance(data, bytes) else canonical.encode(data)
        session = session or Session(principal="daemon", source="daemon")
        envelope = EventEnvelope(name=name, raw=raw, principal=session.principal, source=session.source)
        future: asyncio.Future[bytes] = self.loop.create_future()
        call = self.dispatch(envelope, session, _settle, future)
        try:
            return self.decode(await future)
        except asyncio.CancelledError:
            if call is not None:
                call.cancel()
            raise

    # ── lookups ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def known_request(self, event_id: bytes) -> Known:
        known = await self._find(event_id)
        if known is None:
            raise NotFoundError("request", ids.text(event_id))
        return known

    async def known_stream(self, stream: str, session: Session) -> Known:
        """The request behind a recorded stream; who may not ask it may not read it."""
        known = await self._find(request_of(stream))
        if known is None:
            raise NotFoundError("stream", stream)
        row = self.table.get(known.request.name)
        if row is not None and row.stack.permission is not None:
            row.stack.permission(known.request, session)
        return known

    async def _find(self, event_id: bytes) -> Known | None:
        return await self.journal.find(event_id)

    def unknown(self, name: str) -> UnknownEventError:
        return UnknownEventError(name, suggestions=difflib.get_close_matches(name, self.table, n=3))

    def effects_of(self, execution: Execution, context: EventContext) -> Effects:
        return Effects(execution, context, self.recorded_effects.get(execution.envelope.event_id))

    def fresh_context(self) -> contextvars.Context:
        """A copy of the context from before the first connection: nothing leaks from one request to another."""
        return self._base.copy()

    @staticmethod
    def decode(raw: bytes) -> Any:
        return canonical.decode(raw)

    def log_failure(self, row: Row, raised: BaseException | None) -> None:
        _log.error("%s: handler of %s failed", row.owner, row.name, exc_info=raised)

    def _shell(self, envelope: EventEnvelope, session: Session) -> Execution:
        return Execution(self, self.table[envelope.name], envelope, session, None, ignore, None)

    @staticmethod
    def _receipt(envelope: EventEnvelope) -> bytes:
        return canonical.encode({"event_id": ids.text(envelope.event_id), "correlation_id": envelope.correlation_id})

    # ── under way ────────────────────────────────────────────────────────────────────────────────────────────────────
    def enter(self, execution: Execution) -> None:
        self.running[execution.envelope.event_id] = execution

    def leave(self, execution: Execution) -> None:
        event_id = execution.envelope.event_id
        if self.running.get(event_id) is execution:
            del self.running[event_id]
        self.recorded_effects.pop(event_id, None)
        self._ended(execution.row)

    def query_ended(self, query: AsyncQuery) -> None:
        self.queries.discard(query)
        if self._idle is not None or query.row.on_end is not None:
            self._ended(query.row)

    def is_busy(self, rows: Collection[Row]) -> bool:
        """Whether a request of one of ``rows`` is under way."""
        calls: list[Execution | AsyncQuery] = [*self.running.values(), *self.queries]
        return any(call.row in rows for call in calls)

    def _ended(self, row: Row) -> None:
        if row.on_end is not None:
            row.on_end()
        self._look_idle()

    def _look_idle(self) -> None:
        if self._idle is not None and not self.running and not self.queries:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, let what runs end for ``seconds``, then cancel it and wait for its outcomes."""
        self.is_draining = True
        for execution in list(self.running.values()):
            if isinstance(execution, Streaming) and not execution.is_recorded:
                execution.shut_down()
        if await self._wait_idle(seconds):
            return
        calls: list[Call] = [*self.running.values(), *self.queries]
        for call in calls:
            call.cancel()
        if not await self._wait_idle(CANCEL_PATIENCE):
            _log.warning("left running: %s", sorted({execution.row.name for execution in self.running.values()}))

    async def _wait_idle(self, seconds: float) -> bool:
        self._idle = asyncio.Event()
        self._look_idle()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop readers and timers; call after :meth:`drain`."""
        for reader in list(self.readers):
            reader.cancel()
        if self.readers:
            await asyncio.gather(*self.readers, return_exceptions=True)
        self.wheel.close()


CANCEL_PATIENCE = 5.0
"""Seconds that cancelled handlers have to end when the daemon stops."""


class EndingCall:
    """A request that was streamed but only has an end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.call: Call | None = None

    def done(self, token: Any, raw: bytes | None, error: KSIError | None) -> None:
        self._sink.end(raw, error)

    def cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()

    def grant(self, credit: int) -> None: ...
    def disconnected(self) -> None: ...


def ignore(token: Any, raw: bytes | None, error: KSIError | None) -> None:
    """The answer of a request that nobody waits for is in the log."""


def _settle(future: asyncio.Future[bytes], raw: bytes | None, error: KSIError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(raw or b"null")


def caused_by(event_id: bytes) -> Query:
    """Query for all that was recorded in the name of a request."""
    return (Filter(causation_id=UUID(bytes=event_id), kinds=("fact", "request", "outcome")),)
