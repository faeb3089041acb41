"""One connection: frames go to the door, answers come back under the same id and in any order."""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import cast

import msgspec
from msgspec import Raw

from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import InvalidFrameError, KSIError, OverloadedError, PayloadTooLargeError, UnauthorizedError
from ksi.kernel.door import Call, Door, Session, Target
from ksi.transport.budget import Budget, Limits
from ksi.transport.envelopes import envelope_of
from ksi.transport.flat import FlatLane
from ksi.transport.intake import Intake
from ksi.transport.lapsing import Tokens
from ksi.transport.outbox import Outbox
from ksi.transport.streams import FrameSink
from ksi.wire import answers, dialects
from ksi.wire.answers import ANSWER, ANSWER_END, answer
from ksi.wire.frames import Frame, FrameId, Kind, Shape, invalid, payload_json, read
from ksi.wire.splitter import Line
from ksi.wire.typed import TypedFrames

CREDIT_DEFAULT = 16
PROTOCOL = Shape.PROTOCOL
UNREADABLE = (ValueError, TypeError, RecursionError)
"""What a reader of frames raises."""


class Common(msgspec.Struct, kw_only=True, eq=False):
    """What the connections of one server share."""

    door: Door
    limits: Limits
    budget: Budget
    clock: Clock
    server: str
    connections: set[Connection]
    tokens: Tokens | None = None
    """None where they mean nothing."""
    drained: asyncio.Event | None = None
    """Set when the last connection is gone."""
    late_frames: int = 0
    """Credits and cancels that came after their request had ended."""

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.drained is not None and not self.connections:
            self.drained.set()


class Running(msgspec.Struct, eq=False):
    """A request without an answer yet. ``call`` is None where it was only accepted: nothing here can stop it."""

    size: int
    call: Call | None = None
    envelope: EventEnvelope | None = None
    stream: FrameSink | None = None


class Connection(asyncio.Protocol):
    """A client on the Unix socket."""

    def __init__(
        self,
        common: Common,
        principal_of: Callable[[asyncio.Transport], str],
        token: str | None = None,
        *,
        source: str = "unix",
    ) -> None:
        """A connection without a transport yet.

        Args:
            principal_of: Raises UnauthorizedError where the peer has no rights until it says hello with a token.
            token: With which it came; it has to leave when that counts no more.
        """
        self._common = common
        self._door = common.door
        self._frames = common.door.frames
        self._limits = common.limits
        self._budget = common.budget
        self._clock = common.clock
        self._frame_bytes_max = common.limits.frame_bytes_max
        self._principal_of = principal_of
        self._running: dict[FrameId, Running] = {}
        self._shape = Shape.PROTOCOL
        self._is_finishing = False
        self._outbox = Outbox(common.limits, self._awaited)
        self._send = self._outbox.send
        self._intake = Intake(common.limits, common.budget, self._take, self._served)
        self._session = Session(principal="", source=source, reply_channel=self._outbox)
        self._flat = FlatLane(common.door, self._session, self._send, budget=common.budget, clock=common.clock)
        self._token = token
        self._unwatch: Callable[[], None] = _nothing
        self._locked = ""  #: why nothing but a hello is served
        self._transport: asyncio.Transport | None = None

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────────────────────────
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport = transport
        self._outbox.open(transport)
        self._intake.open(transport)
        if len(self._common.connections) >= self._limits.connections_max:
            self._send(answers.failure(None, OverloadedError("connections", limit=self._limits.connections_max)))
            self.finish()
        self._common.connections.add(self)
        try:
            self._session.principal = self._principal_of(transport)
        except UnauthorizedError as error:
            self._lock(error)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._outbox.hold()
        if self._token is not None:
            self._prove_again(self._token)
        self._intake.feed(data)

    def eof_received(self) -> bool:
        """The client sends no more. Where it still reads its answers go out; streams, which it can not steer, end."""
        if self._transport is None or _is_gone(self._transport):
            return False
        if self._intake.has_rest:
            self.data_received(b"\n")
        self._disconnect_streams()
        self.finish()
        return True

    def pause_writing(self) -> None:
        self._outbox.is_paused = True
        self._intake.pause("write")

    def resume_writing(self) -> None:
        self._outbox.is_paused = False
        self._intake.resume("write")
        self._outbox.flush()
        for running in list(self._running.values()):
            if running.stream is not None:
                running.stream.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._unwatch()
        self._common.leave(self)
        self._intake.close()
        self._outbox.close()
        self._flat.clear()
        self._disconnect_streams()

    # ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def finish(self) -> None:
        """Close once all is answered and written. Till then cancels and credit still come through."""
        self._is_finishing = True
        self._close_if_idle()

    def abort(self) -> None:
        """Close now; what is not written is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _close_if_idle(self) -> None:
        if self._transport is None or self._running or len(self._flat) or not self._intake.is_empty:
            return
        self._outbox.flush()
        self._transport.close()

    def _close_later(self) -> None:
        """Behind the dispatch that this may have come out of, whose own request is not in flight yet."""
        asyncio.get_running_loop().call_soon(self._close_if_idle)

    def _disconnect_streams(self) -> None:
        for frame_id, running in list(self._running.items()):
            if running.stream is not None:
                self._release(frame_id)
                running.stream.disconnected()

    # ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _take(self, lines: deque[Line]) -> None:
        """Serve the lines of a turn: at most 64, or 2 ms of them.

        A request of an event that was asked for before goes straight to its row. It is every request's way, and
        therefore one function.
        """
        limits, session, read, done = self._limits, self._session, self._frames.read_bare, self._done
        running, budget, send, bytes_max = self._running, self._budget, self._outbox.append, self._frame_bytes_max
        principal, source = session.principal, session.source
        until = monotonic() + limits.turn_seconds
        for count in range(min(len(lines), limits.turn_frames_max)):
            line = lines.popleft()
            try:
                frame = read(line)  # type: ignore[arg-type]  # of a line that was too long there is an error
            except UNREADABLE:
                frame = None  # served behind this, so that no error of a handler counts as one that followed from it
            if frame is None:
                self._take_typed(line)
                if self._session is not session:  # it said hello, and is somebody else now
                    break
                source = session.source  # the same
                continue
            self._shape = PROTOCOL
            frame_id, target, data = frame.id, frame.target, frame.data
            try:
                if running or budget.is_tight:
                    self._admit(frame_id)
                if data.__class__ is Raw:
                    envelope = EventEnvelope(
                        name=target.name, raw=payload_json(data), principal=principal, source=source
                    )
                else:
                    envelope = EventEnvelope(name=target.name, principal=principal, source=source, typed=data)
                    del envelope.raw
                if target.answer_now is None:
                    call = target.dispatch(envelope, session, done, frame_id)
                    if call is not None:
                        self._hold(frame_id, Running(len(line), call, envelope))  # type: ignore[arg-type]  # as above
                else:
                    raw = target.answer_now(envelope, session, done, frame_id)
                    if raw is None:
                        continue
                    if frame_id.__class__ is int and len(raw) <= bytes_max:  # in parts: the turn's write joins them
                        send(ANSWER % frame_id)
                        send(raw)
                        send(ANSWER_END)
                    else:
                        done(frame_id, raw, None)
            except KSIError as error:
                self._refuse_request(frame_id, error)
            if count & 7 == 7 and monotonic() > until:  # every eighth time: a look at the clock costs 2 % of a request
                break

    def _take_typed(self, line: Line) -> None:
        """Serve a request that says more of itself, or a line of any other kind."""
        try:
            frame = self._frames.read(line)  # type: ignore[arg-type]  # as above
        except UNREADABLE:
            frame = None
        if frame is None or (frame_id := frame.id) is None or frame.stream or not frame.reply:
            self._take_plain(line)
            return
        target: Target = frame.target
        try:
            if self._running or self._budget.is_tight:
                self._admit(frame_id)
            self._shape = PROTOCOL
            envelope = envelope_of(target.name, frame.data, frame, self._session, self._clock)
            call = target.dispatch(envelope, self._session, self._done, frame_id)
            if call is not None:
                self._hold(frame_id, Running(len(line), call, envelope))  # type: ignore[arg-type]  # as above
        except KSIError as error:
            self._refuse_request(frame_id, error)

    def _take_plain(self, line: Line) -> None:
        """Serve a line of any kind."""
        try:
            frame = read(line)  # type: ignore[arg-type]  # of a line that was too long there is an error
        except UNREADABLE as error:
            self._unreadable(line, error)
            return
        frame_id = frame.id
        try:
            if self._locked and (frame.event is not None or frame.hello is None):
                raise UnauthorizedError(self._locked)
            if frame_id is None or frame.event is None or frame.stream or not frame.reply:
                self._other(frame)
                return
            if self._running or self._budget.is_tight:
                self._admit(frame_id)
            self._shape = Shape.PROTOCOL
            envelope = envelope_of(frame.event, frame.data, frame, self._session, self._clock)
            call = self._door.dispatch(envelope, self._session, self._done, frame_id)
            if call is not None:
                self._hold(frame_id, Running(len(envelope.raw), call, envelope))
            self._door.learn(frame.event)
        except KSIError as error:
            self._refuse(frame, error)

    def _served(self) -> None:
        """The end of a turn."""
        self._outbox.flush()
        if self._is_finishing:
            self._close_if_idle()

    def _unreadable(self, line: Line, error: Exception) -> None:
        """Answer in the shape of the last frame; a blank line says nothing."""
        if isinstance(line, bytes) and not line.strip():
            return
        refusal = invalid(line, error) if isinstance(line, bytes) else line
        if self._shape is Shape.PROTOCOL:
            self._send(answers.failure(None, refusal))
        else:
            self._flat.refuse(refusal)

    def _refuse(self, frame: Frame, error: KSIError) -> None:
        if frame.shape is not Shape.PROTOCOL:
            self._send(dialects.failure(frame, error))
            return
        self._refuse_request(frame.id, error)

    def _refuse_request(self, frame_id: FrameId | None, error: KSIError) -> None:
        is_double = isinstance(error, InvalidFrameError) and frame_id in self._running
        self._send(answers.failure(None if is_double else frame_id, error))

    def _other(self, frame: Frame) -> None:
        kind = frame.kind
        self._shape = frame.shape
        match kind:
            case Kind.REQUEST:
                self._accept(frame)
            case Kind.FLAT:
                self._flat.take(frame)
            case Kind.STREAM | Kind.RESUME:
                self._open_stream(frame, kind)
            case Kind.CREDIT | Kind.CANCEL:
                self._steer(frame)
            case _:
                self._hello(frame)

    # ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _hello(self, frame: Frame) -> None:
        if frame.token is not None and self._common.tokens is not None:
            self._become(self._common.tokens.principal_of, frame.token)
            self._watch()
        if self._locked:
            raise UnauthorizedError(self._locked)
        self._session.source = frame.client or self._session.source
        self._send(
            answers.hello(server=self._common.server, principal=self._session.principal, pid=os.getpid()),
        )

    def _become(self, principal_of: Callable[[str], str], token: str) -> None:
        """Be the principal of ``token`` from now on. A wrong one costs the rights that were there."""
        if self._running or len(self._flat):
            raise InvalidFrameError("a hello with a token comes before requests, or after their answers")
        try:
            principal = principal_of(token)
        except UnauthorizedError as error:
            self._lock(error)
            raise
        self._token, self._locked, self._frames = token, "", self._door.frames
        # Another one: what runs detached, in the name that was, goes on with the session that was.
        self._session = Session(principal=principal, source=self._session.source, reply_channel=self._outbox)
        self._flat = FlatLane(self._door, self._session, self._send, budget=self._budget, clock=self._clock)

    def _lock(self, error: UnauthorizedError) -> None:
        """Serve nothing but a hello with a token."""
        self._unwatch()
        self._token, self._locked, self._frames = None, error.message, TypedFrames()
        self._session = Session(principal="", source=self._session.source)

    def _prove_again(self, token: str) -> None:
        """The token may have expired, or been revoked: who came in with it has to leave."""
        assert self._common.tokens is not None
        try:
            self._common.tokens.principal_of(token)
        except UnauthorizedError as error:
            self._expel(error)

    def _watch(self) -> None:
        self._unwatch()
        if self._token is not None and self._common.tokens is not None:
            self._unwatch = self._common.tokens.watch(self._token, self._expel)

    def _expel(self, error: UnauthorizedError) -> None:
        self._lock(error)
        self._send(answers.failure(None, error))
        for running in list(self._running.values()):
            if running.stream is not None:
                running.stream.end(None, error)
                running.stream.disconnected()
        self._is_finishing = True  # once it was told so of all that it asks here
        self._close_later()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _accept(self, frame: Frame) -> None:
        assert frame.id is not None
        self._admit(frame.id)
        envelope = envelope_of(frame.event or "", frame.data, frame, self._session, self._clock)
        self._hold(frame.id, Running(len(envelope.raw), envelope=envelope))
        self._door.accept(envelope, self._session, self._done, frame.id)

    def _admit(self, frame_id: FrameId) -> None:
        if frame_id in self._running:
            raise InvalidFrameError(f"a request with the id {frame_id!r} is in flight", id=frame_id)
        if len(self._running) >= self._limits.in_flight_max:
            raise OverloadedError("requests in flight of the connection", limit=self._limits.in_flight_max)
        refusal = self._budget.refusal()
        if refusal is not None:
            raise refusal

    def _hold(self, frame_id: FrameId, running: Running) -> None:
        self._running[frame_id] = running
        self._budget.hold(running.size)

    def _release(self, frame_id: FrameId) -> None:
        running = self._running.pop(frame_id, None)
        if running is not None:
            self._budget.release(running.size)

    def _done(self, frame_id: FrameId, raw: bytes | None, error: KSIError | None) -> None:
        if self._running:
            self._release(frame_id)
        if error is None and raw is not None and len(raw) <= self._frame_bytes_max:
            self._send(answer(frame_id, raw))
        else:
            self._send(answers.failure(frame_id, error or self._too_large(raw or b"")))
        if self._is_finishing:
            self._close_later()

    def _too_large(self, raw: bytes) -> KSIError:
        return PayloadTooLargeError("answer", size=len(raw), limit=self._frame_bytes_max)

    def _awaited(self) -> set[str]:
        """The runs whose answers are still to come; a stream is its own answer."""
        waiting = [running.envelope for running in self._running.values() if running.envelope is not None]
        if self._flat.current is not None:
            waiting.append(self._flat.current)
        return {envelope.correlation_id for envelope in waiting}

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _open_stream(self, frame: Frame, kind: Kind) -> None:
        assert frame.id is not None
        self._admit(frame.id)
        credit = CREDIT_DEFAULT if frame.credit is None else frame.credit
        sink = FrameSink(frame.id, self._outbox, self._ended, credit=credit, frame_bytes_max=self._frame_bytes_max)
        size = len(frame.raw)
        credit = sink.window.next()
        if kind is Kind.RESUME:
            call = self._door.resume(frame.resume or "", self._session, sink, credit)
        else:
            envelope = envelope_of(frame.event or "", frame.data, frame, self._session, self._clock)
            call = self._door.open_stream(envelope, self._session, sink, credit)
        if not sink.is_ended:
            self._hold(frame.id, Running(size, call, stream=sink))
        sink.begin(call)

    def _ended(self, frame_id: FrameId) -> None:
        self._release(frame_id)
        if self._is_finishing:
            self._close_later()

    def _steer(self, frame: Frame) -> None:
        running = None if frame.id is None else self._running.get(frame.id)
        if running is None:
            self._common.late_frames += 1
        elif frame.cancel:
            if running.call is not None:
                running.call.cancel()
        elif running.stream is not None and frame.credit:
            running.stream.grant(frame.credit)


def _nothing() -> None:
    """Nobody watches its token."""


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed altogether, and not only its writing side: both look the same to a reader."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
