"""The router: takes requests at the door, finds their row, keeps track of what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import difflib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope, min_deadline
from ksi.core.errors import (
    KSIError,
    NoHandlerError,
    NotFoundError,
    PermissionDeniedError,
    QueryWroteError,
    ShuttingDownError,
    UnknownEventError,
    UnsupportedError,
)
from ksi.core.ports import Committed, Journal, Known, Outcome, Unit
from ksi.core.threads import Threads, settle
from ksi.core.tracing import Tracer
from ksi.kernel.context import EventContext
from ksi.kernel.denials import Denials
from ksi.kernel.door import Call, Done, Session, Sink, StreamCall
from ksi.kernel.effects import Effects
from ksi.kernel.execution import Execution
from ksi.kernel.foreign import ENDS, FOREIGN
from ksi.kernel.joining import UNLIMITED, EndOnly, deliver
from ksi.kernel.keys import Keys
from ksi.kernel.middleware import Parked
from ksi.kernel.nested import Inbox
from ksi.kernel.parking import Parking
from ksi.kernel.reads import served
from ksi.kernel.request import conflicting
from ksi.kernel.rerun import History, end_without_run, history_of
from ksi.kernel.resume import LiveStreams, Resumed, parse_address, request_of
from ksi.kernel.services import ServiceRegistry
from ksi.kernel.streaming import Streaming
from ksi.kernel.subjects import Place, Subjects
from ksi.kernel.table import AsyncQuery, Row
from ksi.kernel.wheel import Wheel
from ksi.kernel.writing import error_json
from ksi.wire.typed import TypedFrames

_log = logging.getLogger("ksi.kernel")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the router, in seconds."""

    stall_timeout: float = 60.0
    disconnect_grace: float = 10.0
    drain_timeout: float = 10.0
    initialize_timeout: float = 30.0
    shutdown_timeout: float = 5.0


Admission = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class Admitted(NamedTuple):
    """What the checks and the decoder made of a request."""

    payload: Any
    locks: Sequence[tuple[str, int]]
    parked: Parked | None


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
        self.frames = TypedFrames()
        self.keys = Keys()
        self.wheel = Wheel(self.loop)
        self.streams = LiveStreams()
        self.subjects = Subjects(journal)
        self.running: dict[bytes, Execution] = {}
        self.queries: set[AsyncQuery] = set()
        self.readers: set[asyncio.Task[None]] = set()
        self.under_way: set[Execution] = set()
        self.parking = Parking(self)
        self.is_draining = False
        self._denials = Denials(self)
        self._base = contextvars.copy_context()
        self._idle: asyncio.Event | None = None
        self.tracer: Tracer | None = None
        """Who wants to know of spans. Rows are compiled for it, so it is set before there are any."""

    # ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def dispatch(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        row = self.table.get(envelope.name)
        if row is None:
            self.refuse(self.unknown(envelope.name), envelope, done, token)
            return None
        return row.dispatch(envelope, session, done, token)

    def learn(self, name: str) -> None:
        row = self.table.get(name)
        if row is not None:
            self.frames.learn(name, row.frame_type, row)

    def accept(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        row = self.table.get(envelope.name)
        try:
            if row is None:
                raise self.unknown(envelope.name)
            if not row.is_recorded:
                raise UnsupportedError(f"{row.name!r} is not recorded: there is nothing to go on without you")
            admitted = self._admitted(row, envelope, session, is_nested=False)
        except KSIError as error:
            self.refuse(error, envelope, done, token)
            return
        running = self._same(row, envelope)
        if running is None:
            execution = self._execution(row, envelope, session, admitted, ignore, None, None)
            place = self.subjects.place_of(execution)
            self._start(self._accepted(execution, admitted.parked, place, done, token), execution)
        elif running.matches(envelope):
            done(token, self._receipt(envelope), None)
        else:
            done(token, None, conflicting(envelope))

    async def _accepted(
        self, execution: Execution, parked: Parked | None, place: Place | None, done: Done, token: Any
    ) -> None:
        try:
            known = await self.journal.find(execution.envelope.event_id)
            if known is not None and not execution.matches(known):
                raise conflicting(execution.envelope)
            await self._settle(execution, place, known)
            if known is None:
                await execution.written(Unit(origin=execution.envelope))
        except FOREIGN as raised:  # the door of a task that nobody awaits
            execution.settle(None, error := execution.row.explain(raised))
            done(token, None, error)
            return
        done(token, self._receipt(execution.envelope), None)
        await self._begin_or_replay(execution, parked, known)

    def open_stream(self, envelope: EventEnvelope, session: Session, sink: Sink, credit: int) -> StreamCall:
        row = self.table.get(envelope.name)
        if row is not None and row.is_stream and row.handlers:
            return self._open_stream(row, envelope, session, sink, credit, None)
        ending = EndingCall(sink)
        ending.call = self.dispatch(envelope, session, ending.done, None)
        return ending

    def _open_stream(
        self, row: Row, envelope: EventEnvelope, session: Session, sink: Sink, credit: int, parent: Execution | None
    ) -> StreamCall:
        is_explicit = envelope.id is not None
        try:
            admitted = self._admitted(row, envelope, session, is_nested=parent is not None)
        except KSIError as error:
            ending = EndingCall(sink)
            row.refuse(error, envelope, ending.done, None)
            return ending
        running = self._same(row, envelope)
        if running is not None:
            if isinstance(running, Streaming) and running.matches(envelope):
                return running.join_stream(session, sink, credit, envelope.deadline_us)
            sink.end(None, conflicting(envelope))
            return EndingCall(sink)
        streaming = Streaming(self, row, envelope, session, admitted.payload, sink, credit, parent)
        streaming.locks = admitted.locks
        self._look_and_start(streaming, admitted.parked, is_explicit=is_explicit)
        return streaming

    def cancel(self, event_id: bytes, session: Session) -> bool:
        running = self.running.get(event_id)
        if running is None or running.is_ending or running.envelope.principal != session.principal:
            return False
        running.cancel()
        return True

    def resume(self, address: str, session: Session, sink: Sink, credit: int) -> StreamCall:
        running, version = self._own_stream(address, session)
        if running is None:
            return self.read(address, session, sink, credit)
        return running.go_on_reading(session, sink, credit, version)

    def read(self, address: str, session: Session, sink: Sink, credit: int) -> Resumed:
        """The same for who only looks on."""
        return Resumed(self, address, session, sink, credit)

    def _own_stream(self, address: str, session: Session) -> tuple[Streaming | None, int]:
        """The stream under way there, where ``session``'s principal asked for it, and still may."""
        try:
            stream, version = parse_address(address)
            running = self.running.get(request_of(stream))
            if not isinstance(running, Streaming) or running.stream != stream or running.is_ending:
                return None, version
            if running.envelope.principal != session.principal:
                return None, version
            if (check := running.row.stack.permission) is not None:
                check(running.envelope, session)
        except KSIError:  # who only reads is told of it
            return None, 0
        return running, version

    # ── admit ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def dispatch_row_for(self, row: Row) -> Callable[..., Call | None]:
        """The general way of a row's requests."""

        def dispatch(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
            return self._admit(row, envelope, session, done, token, None)

        return dispatch

    def _admit(
        self, row: Row, envelope: EventEnvelope, session: Session, done: Done, token: Any, parent: Execution | None
    ) -> Call | None:
        is_explicit = envelope.id is not None
        try:
            admitted = self._admitted(row, envelope, session, is_nested=parent is not None)
        except KSIError as error:
            row.refuse(error, envelope, done, token)
            return None
        running = self._same(row, envelope)
        if running is not None:
            return self._join(running, envelope, done, token)
        execution = self._execution(row, envelope, session, admitted, done, token, parent)
        if envelope.cause is not None and parent is None:
            execution.above = self.running.get(envelope.cause)
        self._look_and_start(execution, admitted.parked, is_explicit=is_explicit)
        return execution

    def _admitted(self, row: Row, envelope: EventEnvelope, session: Session, *, is_nested: bool) -> Admitted:
        """Permission, admission, decoding. Raises only KSIErrors."""
        if self.is_draining and not is_nested and (row.is_recorded or row.is_stream):
            raise ShuttingDownError
        if not row.handlers:
            raise NoHandlerError(row.name, plugin=row.spec.declared_by)
        try:
            parked = row.check(envelope, session, is_nested=is_nested)
            payload = row.payload(envelope)
        except ENDS as raised:  # the router's door: checks and validators are plugins' code
            raise row.explain(raised) from None
        return Admitted(payload, row.locks(payload, envelope.branch), parked)

    def _execution(
        self, row: Row, envelope: EventEnvelope, session: Session, admitted: Admitted, done: Done, token: Any,
        parent: Execution | None,
    ) -> Execution:  # fmt: skip
        sink = None if done is ignore else EndOnly(done, token)
        execution = (
            Streaming(self, row, envelope, session, admitted.payload, sink, UNLIMITED, parent)
            if row.is_stream
            else Execution(self, row, envelope, session, admitted.payload, done, token, parent)
        )
        execution.locks = admitted.locks
        return execution

    def _same(self, row: Row, envelope: EventEnvelope) -> Execution | None:
        """The request with this id that is under way, or parked. Queries take their id as a cause only."""
        if envelope.id is None or not row.is_recorded:
            return None
        return self.running.get(envelope.id) or self.parking.get(envelope.id)

    def _join(self, running: Execution, envelope: EventEnvelope, done: Done, token: Any) -> Call | None:
        if running.matches(envelope):
            return running.join(done, token, envelope.deadline_us)
        done(token, None, conflicting(envelope))
        return None

    def _look_and_start(self, execution: Execution, parked: Parked | None, *, is_explicit: bool) -> None:
        """A request that came with an id of its own may have been here before."""
        parent = execution.parent
        may_be_known = execution.is_recorded and is_explicit and (parent is None or parent.is_rerun)
        place = self.subjects.place_of(execution)
        if may_be_known or place is not None:
            self._start(self._start_unless_known(execution, parked, place), execution)
        else:
            self.enter(execution)
            self._begin(execution, parked)

    def _start(self, starting: Coroutine[Any, Any, None], execution: Execution) -> None:
        self.enter(execution)
        task = self.loop.create_task(starting, context=self.fresh_context())
        self.readers.add(task)
        task.add_done_callback(self.readers.discard)

    async def _start_unless_known(self, execution: Execution, parked: Parked | None, place: Place | None) -> None:
        try:
            known = await self.journal.find(execution.envelope.event_id)
            if known is not None and not execution.matches(known):
                raise conflicting(execution.envelope)
            await self._settle(execution, place, known)
            await self._begin_or_replay(execution, parked, known)
        except FOREIGN as raised:  # the door of a task that nobody awaits
            execution.settle(None, execution.row.explain(raised))

    async def _settle(self, execution: Execution, place: Place | None, known: Known | None) -> None:
        """Whose it is, before anything of it is recorded. Raises ConflictError."""
        if known is not None:
            execution.envelope.subject = known.request.subject or execution.envelope.subject
        if place is not None and (known is None or known.outcome is None):
            await self.subjects.settle(execution, place)

    async def _begin_or_replay(self, execution: Execution, parked: Parked | None, known: Known | None) -> None:
        if known is None:
            self._begin(execution, parked)
        elif known.outcome is not None:
            execution.replay(known.outcome)
        else:
            await self._run_again(execution, known)

    async def _run_again(self, execution: Execution, known: Known) -> None:
        """It is open in the log, and nobody is at it."""
        history = await history_of(self, known.request)
        if (history.is_parked or history.was_resumed) and await self._was_resumed_meanwhile(execution):
            return
        execution.recover(history)
        if execution.answered:
            return
        if history.is_parked:
            self.leave(execution)
            self.parking.keep(execution)
        elif (end := end_without_run(execution.row, known.request, history)) is not None:
            execution.read_back()
            execution.failed(end)
        else:
            execution.start()

    async def _was_resumed_meanwhile(self, execution: Execution) -> bool:
        """Whether somebody's word on a parked request came before the one who awaits it had come to it again."""
        known = await self.known_request(execution.envelope.event_id)
        other = self.running.get(execution.envelope.event_id)
        if known.outcome is not None:
            execution.replay(known.outcome)
            return True
        if other is None or other is execution:
            return False
        other.watch(lambda _, raw, error: execution.settle(raw, error), None)
        return True

    def _begin(self, execution: Execution, parked: Parked | None) -> None:
        if parked is None:
            execution.start()
            return
        self.leave(execution)
        self.parking.park(execution, parked.reason)

    def refuse(self, error: KSIError, envelope: EventEnvelope, done: Done, token: Any) -> None:
        """Answer with an error from before the handler began. A denial is on disk before its answer."""
        if self.tracer is not None and (span := self.tracer.begin(envelope)) is not None:
            span.end(error)
        self.answer_refused(error, envelope, done, token)

    def answer_refused(self, error: KSIError, envelope: EventEnvelope, done: Done, token: Any) -> None:
        """The same for what is measured already."""
        if isinstance(error, PermissionDeniedError):
            self._denials.record(envelope, error, lambda denied: deliver(done, token, None, denied))
        else:
            done(token, None, error)

    # ── recorded requests: emits, reruns, parked ones ────────────────────────────────────────────────────────────────
    def check(self, envelope: EventEnvelope) -> None:
        """Bring the payload into its canonical form. Raises what makes the request impossible."""
        self._recorded_row(envelope.name).payload(envelope)

    def start_recorded(self, envelope: EventEnvelope, session: Session) -> None:
        """Run a request that is on disk already; nobody waits for its answer, but ``session`` may be pushed to.

        A daemon that stops leaves it to the next start.
        """
        if self.is_draining:
            return
        try:
            execution, parked = self._recorded_execution(envelope, session)
        except KSIError as error:
            self.refuse(error, envelope, self._close_refused, envelope)
            return
        place = self.subjects.place_of(execution)
        if place is None:
            self.enter(execution)
            self._begin(execution, parked)
        else:
            self._start(self._begin_settled(execution, parked, place), execution)

    async def _begin_settled(self, execution: Execution, parked: Parked | None, place: Place) -> None:
        try:
            await self.subjects.settle(execution, place)
        except FOREIGN as raised:  # the door of a task that nobody awaits
            execution.give_up(execution.row.explain(raised))
        else:
            self._begin(execution, parked)

    async def resume_parked(self, event_id: bytes) -> None:
        """Run a parked request, once. Raises NotFoundError where none is parked."""
        await self.parking.resume(event_id)

    async def cancel_parked(self, event_id: bytes, error: KSIError) -> None:
        """End a parked request with ``error``. Raises NotFoundError where none is parked."""
        await self.parking.cancel(event_id, error)

    def known_execution(self, known: Known, history: History) -> Execution:
        """A request of an earlier life, ready to run again. Raises what its checks and its payload's decoder raise."""
        request = known.request
        session = Session(principal=request.principal, source=request.source)
        execution, _ = self._recorded_execution(request, session)
        execution.recover(history)
        return execution

    def run(self, execution: Execution) -> None:
        """Start what :meth:`known_execution` gave."""
        self.enter(execution)
        execution.start()

    def run_parked(self, execution: Execution) -> None:
        """Start what was parked: checked again, in the code of today, but not parked again."""
        envelope = execution.envelope
        try:
            row = self.table.get(envelope.name)
            if row is None:
                raise self.unknown(envelope.name)
            admitted = self._admitted(row, envelope, execution.session, is_nested=True)
        except KSIError as error:
            execution.give_up(error)
            return
        execution.renew(row, admitted.payload, admitted.locks)
        self.run(execution)

    def _recorded_execution(self, envelope: EventEnvelope, session: Session) -> tuple[Execution, Parked | None]:
        row = self._recorded_row(envelope.name)
        admitted = self._admitted(row, envelope, session, is_nested=True)
        execution = self._execution(row, envelope, session, admitted, ignore, None, None)
        execution.opened = True
        return execution, admitted.parked

    def _recorded_row(self, name: str) -> Row:
        row = self.table.get(name)
        if row is None:
            raise self.unknown(name)
        if not row.is_recorded:
            raise UnsupportedError(f"{name!r} is not recorded: it can not be emitted, request it")
        return row

    async def write(self, unit: Unit) -> Committed:
        """Commit ``unit`` and wait for it. Raises what the journal says."""
        future: asyncio.Future[Committed] = self.loop.create_future()
        self.journal.write(unit, lambda committed, error: settle(future, committed, error))
        return await future

    def close_request(self, envelope: EventEnvelope, error: KSIError) -> None:
        """Give a recorded request its end without running it."""
        unit = Unit(origin=envelope, outcome=Outcome(False, error_json(error)))
        self.journal.write(unit, lambda committed, refused: self._closed(envelope, refused, error))

    def _close_refused(self, envelope: EventEnvelope, raw: bytes | None, error: KSIError | None) -> None:
        assert error is not None
        self.close_request(envelope, error)

    def _closed(self, envelope: EventEnvelope, refused: KSIError | None, error: KSIError) -> None:
        waiting = self.parking.get(envelope.event_id)
        if refused is not None:
            _log.error("%s could not be closed: %s", envelope.name, refused)
        elif waiting is not None:  # it was parked, and who awaits it came after the word
            waiting.settle(None, error)
        row = self.table.get(envelope.name)
        if row is not None and row.is_stream:
            self.streams.ended(f"{row.category}/{ids.text(envelope.event_id)}")

    # ── nested ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def nested(self, parent: Execution, name: str, raw: bytes, timeout: float | None, *, scope: str = "") -> Any:
        """A request that a handler awaits. Raises what its handler raised."""
        row, envelope = self._nested_row(parent, name, raw, timeout, scope)
        return await self._nested(row, envelope, parent.session, parent)

    async def _nested(self, row: Row, envelope: EventEnvelope, session: Session, parent: Execution) -> Any:
        if row.is_query and parent.is_rerun and (reads := parent.read_recorder()) is not None:
            try:
                return served(reads.again("query", row.name, self.decode(envelope.raw)))
            except LookupError:
                pass  # it had not come so far before the crash
        future: asyncio.Future[bytes] = self.loop.create_future()
        call = self._admit(row, envelope, session, _settle, future, parent)
        try:
            return self.decode(await future)
        except asyncio.CancelledError:
            if call is not None:
                call.cancel()
            raise

    async def nested_as(
        self, parent: Execution, session: Session, name: str, raw: bytes, admitted: Admission, *, scope: str
    ) -> Any:
        """The same in the name of ``session``'s principal; ``admitted`` is given what refuses it, and awaits that."""
        row, envelope = self._nested_row(parent, name, raw, None, scope)
        envelope.principal = session.principal
        await admitted(partial(self._refuse_inadmissible, row, envelope, session))
        return await self._nested(row, envelope, session, parent)

    async def _refuse_inadmissible(self, row: Row, envelope: EventEnvelope, session: Session) -> None:
        """Raises what stands against a request that was not made yet; a denial is on disk then."""
        try:
            self._admitted(row, envelope, session, is_nested=True)
        except KSIError as error:
            future: asyncio.Future[bytes] = self.loop.create_future()
            row.refuse(error, envelope, _settle, future)
            await future

    async def nested_stream(
        self, parent: Execution, name: str, raw: bytes, *, scope: str = ""
    ) -> AsyncGenerator[Any, None]:
        """A stream that a handler reads: its chunks, then its End."""
        row, envelope = self._nested_row(parent, name, raw, None, scope)
        if not row.is_stream:
            raise UnsupportedError(f"{name!r} does not stream: request it")
        inbox = Inbox()
        streaming = self._open_stream(row, envelope, parent.session, inbox, inbox.size, parent)
        try:
            async for item in inbox.read(streaming.grant):
                yield item
        finally:
            streaming.cancel()

    def _nested_row(
        self, parent: Execution, name: str, raw: bytes, timeout: float | None, scope: str
    ) -> tuple[Row, EventEnvelope]:
        row = self.table.get(name)
        if row is None:
            raise self.unknown(name)
        if parent.is_query and row.is_recorded:
            raise QueryWroteError(parent.envelope.name, f"request the command {name!r}")
        envelope = parent.child(name, raw, awaited=True, scope=scope)
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
    def replace_table(self, table: dict[str, Row]) -> None:
        """Answer by ``table`` from now on."""
        self.table = table
        self.frames.forget()

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
        history = execution.history
        return Effects(execution, context, None if history is None else history.recorded)

    def fresh_context(self) -> contextvars.Context:
        """A copy of the context from before the first connection: nothing leaks from one request to another."""
        return self._base.copy()

    @staticmethod
    def decode(raw: bytes) -> Any:
        return canonical.decode(raw)

    def log_failure(self, row: Row, raised: BaseException | None) -> None:
        _log.error("%s: handler of %s failed", row.owner, row.name, exc_info=raised)

    @staticmethod
    def _receipt(envelope: EventEnvelope) -> bytes:
        return canonical.encode({"event_id": ids.text(envelope.event_id), "correlation_id": envelope.correlation_id})

    # ── under way ────────────────────────────────────────────────────────────────────────────────────────────────────
    def enter(self, execution: Execution) -> None:
        self.running[execution.envelope.event_id] = execution
        self.under_way.add(execution)
        execution.entered_at = perf_counter()
        if self.tracer is not None and (execution.is_recorded or execution.parent is not None):
            execution.measured = self.tracer.begin(execution.envelope)

    def leave(self, execution: Execution) -> None:
        event_id = execution.envelope.event_id
        if self.running.get(event_id) is execution:
            del self.running[event_id]
        self.under_way.discard(execution)
        if execution.is_parked:
            self.parking.left(execution)
        if self._idle is not None or execution.row.on_end is not None:
            self._ended(execution.row)

    def family(self, execution: Execution) -> list[Execution]:
        """``execution`` and all that is under way below it."""
        return [each for each in self.under_way if each.is_below(execution)]

    def query_ended(self, query: AsyncQuery) -> None:
        self.queries.discard(query)
        if self._idle is not None or query.row.on_end is not None:
            self._ended(query.row)

    def is_busy(self, rows: Collection[Row]) -> bool:
        """Whether a request of one of ``rows`` is under way."""
        return any(call.row in rows for call in self._calls())

    def cancel_all(self, rows: Collection[Row]) -> None:
        """Cancel what is under way of ``rows``."""
        for call in self._calls():
            if call.row in rows:
                call.abort()

    def _calls(self) -> list[Execution | AsyncQuery]:
        return [*self.under_way, *self.queries]

    def _ended(self, row: Row) -> None:
        if row.on_end is not None:
            row.on_end()
        self._look_idle()

    def _look_idle(self) -> None:
        if self._idle is not None and not self.under_way and not self.queries:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, let what runs end for ``seconds``, then cancel it and wait for its outcomes.

        Once is enough: what is left then swallows its cancel, and is not waited for again.
        """
        if self.is_draining:
            return
        self.is_draining = True
        self.parking.let_go()
        for execution in list(self.under_way):
            if isinstance(execution, Streaming):
                execution.shut_down()
        if await self._wait_idle(seconds):
            return
        for call in self._calls():
            call.abort()
        if not await self._wait_idle(CANCEL_PATIENCE):
            _log.warning("left running: %s", sorted({execution.row.name for execution in self.under_way}))
            await self._answer_for(list(self.under_way))

    async def _answer_for(self, stubborn: Sequence[Execution]) -> None:
        """Tell the callers of those that do not end, with an outcome in the log."""
        told = asyncio.Event()

        def look(*_: Any) -> None:
            if all(execution.answered for execution in stubborn):
                told.set()

        for execution in stubborn:
            execution.watch(look, None)
            execution.expire()
        look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_PATIENCE):
                await told.wait()

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
ANSWER_PATIENCE = 1.0
"""Seconds that the log has to take the outcomes of those that did not."""


class EndingCall:
    """A request that was streamed but only has an end."""

    stream = None

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
