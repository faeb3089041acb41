"""The router: takes requests at the door, finds their row and begins them.

What runs is known to :mod:`ksi.kernel.underway`, what handlers ask goes through :mod:`ksi.kernel.nested`, and what is
on disk before it runs through :mod:`ksi.kernel.recorded`.
"""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    KSIError,
    NoHandlerError,
    NotFoundError,
    PermissionDeniedError,
    ShuttingDownError,
    UnknownEventError,
    UnsupportedError,
)
from ksi.core.ports import Committed, Journal, Known, Unit
from ksi.core.threads import Threads, settle
from ksi.kernel.context import EventContext
from ksi.kernel.denials import Denials
from ksi.kernel.door import Call, Done, Session, Sink, StreamCall
from ksi.kernel.effects import Effects, Recorded
from ksi.kernel.execution import Execution
from ksi.kernel.foreign import ENDS, FOREIGN
from ksi.kernel.joining import UNLIMITED, EndOnly, answer_of, deliver, ignore, settle_answer
from ksi.kernel.keys import Keys
from ksi.kernel.middleware import Parked
from ksi.kernel.nested import Nesting
from ksi.kernel.parking import Parking
from ksi.kernel.recorded import RecordedRequests
from ksi.kernel.request import conflicting
from ksi.kernel.resume import LiveStreams, Resumed, parse_address, request_of
from ksi.kernel.services import ServiceRegistry
from ksi.kernel.streaming import Streaming
from ksi.kernel.subjects import Place, Subjects
from ksi.kernel.table import Row
from ksi.kernel.underway import UnderWay
from ksi.wire.typed import TypedFrames

_log = logging.getLogger("ksi.kernel")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the router, in seconds."""

    stall_timeout: float = 60.0
    disconnect_grace: float = 10.0
    drain_timeout: float = 10.0
    initialize_timeout: float = 30.0
    shutdown_timeout: float = 5.0


class Admitted(NamedTuple):
    """What the checks and the decoder made of a request."""

    payload: Any
    locks: Sequence[tuple[str, int]]
    parked: Parked | None


class Router(UnderWay):
    """Implements :class:`ksi.kernel.door.Door`. One for each daemon; all of it on one event loop."""

    def __init__(
        self, *, journal: Journal, threads: Threads, clock: Clock, services: ServiceRegistry, limits: Limits
    ) -> None:
        self.loop = asyncio.get_running_loop()
        super().__init__(self.loop)
        self.journal = journal
        self.threads = threads
        self.clock = clock
        self.services = services
        self.limits = limits
        self.table: dict[str, Row] = {}
        self.frames = TypedFrames()
        self.keys = Keys()
        self.streams = LiveStreams()
        self.subjects = Subjects(journal)
        self.parking = Parking(self)
        self.recorded = RecordedRequests(self)
        self.nesting = Nesting(self)
        self.kept: dict[str, Recorded] = {}
        """Effects of an earlier run, by the correlation id of one that repeats it: what it asks again is not done."""
        self._denials = Denials(self)
        self._base = contextvars.copy_context()

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
            admitted = self.admitted(row, envelope, session, is_nested=False)
        except KSIError as error:
            self.refuse(error, envelope, done, token)
            return
        running = self._same(row, envelope)
        if running is None:
            execution = self.new_execution(row, envelope, session, admitted, ignore, None, None)
            place = self.subjects.place_of(execution)
            self.start_by(self._accepted(execution, admitted.parked, place, done, token), execution)
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
            return self.open_row(row, envelope, session, sink, credit, None)
        ending = EndingCall(sink)
        ending.call = self.dispatch(envelope, session, ending.done, None)
        return ending

    def open_row(
        self, row: Row, envelope: EventEnvelope, session: Session, sink: Sink, credit: int, parent: Execution | None
    ) -> StreamCall:
        is_explicit = envelope.id is not None
        try:
            admitted = self.admitted(row, envelope, session, is_nested=parent is not None)
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
            return self.admit(row, envelope, session, done, token, None)

        return dispatch

    def admit(
        self, row: Row, envelope: EventEnvelope, session: Session, done: Done, token: Any, parent: Execution | None
    ) -> Call | None:
        is_explicit = envelope.id is not None
        try:
            admitted = self.admitted(row, envelope, session, is_nested=parent is not None)
            if row.only_shows:  # nobody would ever have an answer, nor could stop it
                raise UnsupportedError(f"{row.name!r} only shows what comes, it has no answer: ask for it as a stream")
        except KSIError as error:
            row.refuse(error, envelope, done, token)
            return None
        running = self._same(row, envelope)
        if running is not None:
            return self._join(running, envelope, done, token)
        execution = self.new_execution(row, envelope, session, admitted, done, token, parent)
        if envelope.cause is not None and parent is None:
            execution.above = self.running.get(envelope.cause)
        self._look_and_start(execution, admitted.parked, is_explicit=is_explicit)
        return execution

    def admitted(self, row: Row, envelope: EventEnvelope, session: Session, *, is_nested: bool) -> Admitted:
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

    def new_execution(
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
            self.start_by(self._start_unless_known(execution, parked, place), execution)
        else:
            self.enter(execution)
            self.begin(execution, parked)

    def start_by(self, starting: Coroutine[Any, Any, None], execution: Execution) -> None:
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
            self.begin(execution, parked)
        elif known.outcome is not None:
            execution.replay(known.outcome)
        else:
            await self.recorded.run_again(execution, known)

    def begin(self, execution: Execution, parked: Parked | None) -> None:
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

    async def resume_parked(self, event_id: bytes) -> None:
        """Run a parked request, once. Raises NotFoundError where none is parked."""
        await self.parking.resume(event_id)

    async def cancel_parked(self, event_id: bytes, error: KSIError) -> None:
        """End a parked request with ``error``. Raises NotFoundError where none is parked."""
        await self.parking.cancel(event_id, error)

    async def write(self, unit: Unit) -> Committed:
        """Commit ``unit`` and wait for it. Raises what the journal says."""
        future: asyncio.Future[Committed] = self.loop.create_future()
        self.journal.write(unit, lambda committed, error: settle(future, committed, error))
        return await future

    # ── without a client ──────────────────────────────────────────────────────────────────────────────────────────────
    async def call(self, name: str, data: Any = b"{}", *, session: Session | None = None) -> Any:
        """A request from inside the daemon that no handler stands behind: a plugin's own task, a test."""
        raw = data if isinstance(data, bytes) else canonical.encode(data)
        session = session or Session(principal="daemon", source="daemon")
        envelope = EventEnvelope(name=name, raw=raw, principal=session.principal, source=session.source)
        future: asyncio.Future[bytes] = self.loop.create_future()
        call = self.dispatch(envelope, session, settle_answer, future)
        return await answer_of(future, call)

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

    def log_failure(self, row: Row, raised: BaseException | None) -> None:
        _log.error("%s: handler of %s failed", row.owner, row.name, exc_info=raised)

    @staticmethod
    def _receipt(envelope: EventEnvelope) -> bytes:
        return canonical.encode({"event_id": ids.text(envelope.event_id), "correlation_id": envelope.correlation_id})


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
