"""Streams: one pump for each, chunks on disk before anybody sees them, credit instead of buffers.

The pump asks the handler for the next chunk only while its reader has credit left, so a reader that stops stops the
work. All chunks of one loop turn are one commit; after it they are delivered with their durable addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from ksi.core import canonical, ids
from ksi.core.errors import (
    CancelledError,
    EventTimeoutError,
    InvalidResponseError,
    KSIError,
    ReplayDivergenceError,
    ShuttingDownError,
    StreamStalledError,
)
from ksi.core.ports import Committed, Entry, Unit
from ksi.kernel.declare import Addressed, Encoded, End, Gap, Opened
from ksi.kernel.door import Session, Sink, StreamCall
from ksi.kernel.execution import Execution
from ksi.kernel.foreign import ENDS
from ksi.kernel.joining import UNLIMITED, EndOnly, Joined, JoinedReader
from ksi.kernel.writing import gather

if TYPE_CHECKING:
    from ksi.core.envelope import EventEnvelope
    from ksi.kernel.context import EventContext
    from ksi.kernel.rerun import Said
    from ksi.kernel.router import Router
    from ksi.kernel.table import Row

UNWRITTEN_MAX = 256
"""Chunks of one stream that may be on their way to the disk, or given in one loop turn where it is not recorded."""


class Streaming(Execution):
    """A stream under way."""

    def __init__(
        self,
        router: Router,
        row: Row,
        envelope: EventEnvelope,
        session: Session,
        payload: Any,
        sink: Sink | None,
        credit: int,
        parent: Execution | None = None,
    ) -> None:
        """``sink`` None: nobody reads it, and it goes on by itself."""
        super().__init__(router, row, envelope, session, payload, self._tell_end, None, parent)
        self._sink = sink
        self._credit = credit
        self._pending: list[bytes] = []
        self._unwritten = 0
        self._flush_due = False
        self._broken: KSIError | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._given = 0
        self._idle: asyncio.TimerHandle | None = None
        self._asked_at = 0.0  #: loop's time since which the next chunk is waited for; where silence has a limit
        self._is_detached = sink is None
        self._is_lost = False
        self._grace: asyncio.TimerHandle | None = None
        self._is_readable = False
        self._reader: StreamCall | None = None
        self.stream = f"{row.category}/{ids.text(envelope.event_id)}" if row.is_recorded else ""

    # ── the reader ───────────────────────────────────────────────────────────────────────────────────────────────────
    def grant(self, credit: int) -> None:
        if self._reader is not None:
            self._reader.grant(credit)
        self._credit += credit
        self._wake()

    def cancel(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._is_lost:  # the word came another way than its reader's, which is gone
            self.abort()
        else:
            super().cancel()

    def disconnected(self) -> None:
        self._is_lost = True
        self._left(self.router.limits.disconnect_grace)

    def _left(self, grace: float) -> None:
        """Its opener is gone."""
        self._sink = None
        if self._reader is not None:
            self._reader.disconnected()
        elif self.row.declaration.on_disconnect == "detach":
            self._is_detached = True
            self.grant(UNLIMITED)
        elif self.joined:
            self.keep_pace()
        else:
            self._await_return(grace)

    def _await_return(self, grace: float) -> None:
        """Nobody reads it. It makes what was asked for, and waits ``grace`` seconds for one who goes on with it."""
        if not self.is_recorded or not grace or self.router.is_draining:
            self.abort()
        elif self._grace is None:
            self._grace = self.router.loop.call_later(grace, self.abort)

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def shut_down(self) -> None:
        """End one that shows what is recorded elsewhere, for it would never end, and one to which nobody came back."""
        if not self.is_recorded and not self.answered:
            self.give_up(ShuttingDownError())
        elif self._grace is not None:
            self.abort()

    # ── those who joined ─────────────────────────────────────────────────────────────────────────────────────────────
    def join_stream(self, session: Session, sink: Sink, credit: int, deadline_us: int | None) -> StreamCall:
        """Somebody else reads the same stream."""
        reader = JoinedReader(self, session, sink, credit)
        if self._is_readable or (self.answered and self.opened):
            reader.begin()
        if self.answered:
            reader.done(None, *self.given)
        else:
            self.take_in(reader, deadline_us)
        return reader

    def take_in(self, joined: Joined, deadline_us: int | None) -> None:
        super().take_in(joined, deadline_us)
        self._stop_grace()
        self.keep_pace()

    def go_on_reading(self, session: Session, sink: Sink, credit: int, version: int) -> StreamCall:
        """Its own principal reads on after ``version``: it runs as long as one of those reads, and no longer."""
        said = self._given - self._unwritten + (0 if self.history is None else len(self.history.chunks))
        reader = JoinedReader(self, session, sink, credit, version=version, before=min(version, said))
        if self._is_readable or self.opened:
            reader.begin()
        self.joined = (*self.joined, reader)
        self._stop_grace()
        self.keep_pace()
        return reader

    def part(self, who: Joined | None, error: KSIError) -> None:
        if who is None or self.joined != (who,) or not self._ends_with_the_last(error) or self.is_ending:
            super().part(who, error)
            return
        self._sink, self.joined = who.as_sink(), ()
        self._end_early(error)

    def lost(self, reader: Joined) -> None:
        """Its connection is gone."""
        self.joined = tuple(each for each in self.joined if each is not reader)
        if self._is_for_others and not self.joined:
            self._await_return(self.router.limits.disconnect_grace)

    def _ends_with_the_last(self, error: KSIError) -> bool:
        """Whether ``error`` of the last one who reads it is its end: its opener is gone, or there was none."""
        return self._is_for_others or (self._sink is None and isinstance(error, CancelledError))

    @property
    def _is_for_others(self) -> bool:
        """Whether it goes on only for those who joined: its opener is gone."""
        return self._sink is None and not self._is_detached

    def keep_pace(self) -> None:
        """With its opener gone it goes as fast as the fastest of those who joined."""
        if self._is_for_others:
            self._credit = max((each.asked for each in self.joined), default=0) - self._given
            self._wake()

    def _hand_over(self, error: KSIError) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end(None, error)
            self.keep_pace()

    def _become_readable(self) -> None:
        self._is_readable = True
        for each in self.joined:
            each.begin()

    def read_back(self) -> None:
        self._become_readable()
        sink = self._sink
        if sink is not None and not isinstance(sink, EndOnly) and self.is_recorded:
            self._sink = None
            self._reader = self.router.read(f"{self.stream}@0", self.session, sink, self._credit)

    def _tell_end(self, token: Any, raw: bytes | None, error: KSIError | None) -> None:
        if self._sink is not None:
            self._sink.end(raw, error)
        self._stop_grace()
        self.router.streams.ended(self.stream)

    # ── the handler ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _handle(self) -> None:
        self._become_readable()
        if self.measured is not None:
            self._handled_us = self.measured.now()
        handler = self.row.handlers[0]
        context = self.new_context()
        self._spawn(self._pump(handler.invoke(self.payload, context), context))

    async def _pump(self, chunks: AsyncGenerator[Any, None], context: EventContext) -> None:
        """Owns the generator from its first chunk to its end."""
        end: bytes | None = None
        error: KSIError | None = None
        try:
            if self._must_wait():
                await self._wait(chunks)
            self._watch_idle(self.row.declaration.idle_timeout)
            async for chunk in chunks:
                end = self._take(chunk, end)
                if self.cancelled:
                    break
                if end is None and self._must_wait():
                    end = await self._wait(chunks)
                if self._idle is not None:
                    self._asked_at = self.router.loop.time()
        except ENDS as raised:  # the router's door
            error = self.row.explain(raised)
        finally:
            self._stop_idle()
            await self._close(chunks)
        self._pumped(end, self._broken or error, context)

    def _take(self, chunk: Any, end: bytes | None) -> bytes | None:
        """Put a chunk on its way; the answer is the end value once it came."""
        if self._broken is not None:
            raise self._broken
        if end is not None:
            raise InvalidResponseError(self.row.name, "a chunk after the End")
        match chunk:
            case End(answer):
                return self.row.encode_answer(answer) if self.row.spec.answer.hint is not None else b"{}"
            case Addressed(at, Encoded(raw)) if not self.is_recorded:
                self._put(raw, at)
            case Addressed(at, data) if not self.is_recorded:
                self._put(self.row.encode_chunk(data), at)
            case Opened(at) if not self.is_recorded:
                if self._sink is not None:
                    self._sink.opened(at)
            case Gap(info) if not self.is_recorded:
                if self._sink is not None:
                    self._sink.gap(info)
            case _:
                self._put(self.row.encode_chunk(chunk))
        return None

    def _must_wait(self) -> bool:
        """For the reader's credit, or for the disk: a generator that never waits would fill the memory."""
        return self._credit <= 0 or self._unwritten >= UNWRITTEN_MAX

    async def _wait(self, chunks: AsyncGenerator[Any, None]) -> bytes | None:
        """Sleep until the next chunk is wanted. One that never is is cancelled, or left behind, with an end frame.

        Cancelled here, the handler is told where it stands, so that it can still yield what it has.
        """
        self._watch_stall()
        try:
            while self._must_wait():
                self._wakeup = self.router.loop.create_future()
                await self._wakeup
            return None
        except asyncio.CancelledError as cancelled:
            return await self._interrupt(chunks, cancelled)
        finally:
            if self._stall is not None:
                self._stall.cancel()
            self._wakeup = None

    async def _interrupt(self, chunks: AsyncGenerator[Any, None], cancelled: asyncio.CancelledError) -> bytes | None:
        try:
            return self._take(await chunks.athrow(cancelled), None)
        except StopAsyncIteration:
            return None

    def _watch_stall(self) -> None:
        self._stall = self.router.loop.call_later(self.router.limits.stall_timeout, self._stalled)

    def _stalled(self) -> None:
        self._watch_stall()  # for those who go on reading
        if self._credit > 0 or self._grace is not None:
            return  # the disk is slow, not the reader; or there is none, and how long it may be away is set
        error = StreamStalledError(seconds=self.router.limits.stall_timeout)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end(None, error)
        else:
            joined, self.joined = self.joined, ()
            for each in joined:
                each.leave(error)
        self._left(grace=0.0)

    def _watch_idle(self, seconds: float | None) -> None:
        if seconds is not None:
            self._asked_at = self.router.loop.time()
            self._idle = self.router.loop.call_later(seconds, self._look_idle, seconds)

    def _look_idle(self, seconds: float) -> None:
        """End it where it has said nothing for ``seconds``, though it was asked to."""
        now = self.router.loop.time()
        if self._wakeup is not None or self._paused:
            self._asked_at = now  # for the reader, the disk, or somebody's consent
        left = self._asked_at + seconds - now
        if left > 0:
            self._idle = self.router.loop.call_later(left, self._look_idle, seconds)
        elif not self.is_ending:
            self.give_up(EventTimeoutError(self.row.name, seconds=seconds, is_silent=True))

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _close(self, chunks: AsyncGenerator[Any, None]) -> None:
        try:
            await chunks.aclose()
        except ENDS as error:  # the stream's end stands already
            self.router.log_failure(self.row, error)

    def _pumped(self, end: bytes | None, error: KSIError | None, context: EventContext) -> None:
        if self.cancelled:
            partial = None if end is None else canonical.decode(end)
            self._conclude(None, CancelledError(self.row.name, partial=partial), (context,))
        elif (error := error or self._unsaid()) is not None:
            self._conclude(None, error, (context,))
        else:
            self._conclude(end or b"null", None, (context,))

    def _closing(self, raw: bytes | None, error: KSIError | None, contexts: Any) -> Unit:
        """Unlike a command's, the facts of a stream that failed stand: its chunks were seen."""
        self._flush_due = False
        unit = Unit(origin=self.envelope, entries=self._entries(), outcome=self.outcome(raw, error))
        for context in contexts:
            gather(unit, context)
        return unit

    def _closed(self, committed: Committed | None, refused: KSIError | None) -> None:
        chunks, self._pending = self._pending, []
        if committed is not None:
            self._deliver_all(chunks, committed)
        super()._closed(committed, refused)

    # ── chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _put(self, raw: bytes, at: str | None = None) -> None:
        self._given += 1
        if self.history is not None and self.history.chunks:
            self._say_again(self.history.chunks.popleft(), raw)
            return
        self._credit -= 1
        self._unwritten += 1
        if not self._flush_due:
            self._flush_due = True
            self.router.loop.call_soon(self._flush)
        if self.is_recorded:
            self._pending.append(raw)
        else:
            self._deliver(at, raw)

    def _say_again(self, said: Said, raw: bytes) -> None:
        """It was said before the crash, and seen: where it is another one now, what follows would not fit."""
        if canonical.digest(raw) != said.digest:
            raise self._diverged(said, {"kind": "chunk", "name": self.row.chunk_name, "data": canonical.decode(raw)})

    def _unsaid(self) -> KSIError | None:
        """A rerun that ends before it has said all that was seen."""
        history = self.history
        return self._diverged(history.chunks[0], None) if history is not None and history.chunks else None

    def _diverged(self, said: Said, came: Mapping[str, Any] | None) -> KSIError:
        recorded = {"kind": "chunk", "name": self.row.chunk_name}
        return ReplayDivergenceError(said.position, recorded=recorded, requested=came)

    def _entries(self) -> list[Entry]:
        return [Entry(stream=self.stream, name=self.row.chunk_name, data=raw, kind="chunk") for raw in self._pending]

    def _flush(self) -> None:
        if not self._flush_due or self.committing:
            return
        self._flush_due = False
        if not self.is_recorded:
            self._unwritten = 0
            self._wake()
            return
        unit = Unit(origin=self.envelope, entries=self._entries())
        for context in self.contexts:
            gather(unit, context)
        chunks, self._pending = self._pending, []
        self.write(unit, lambda committed, error: self._flushed(chunks, committed, error))

    def _flushed(self, chunks: list[bytes], committed: Committed | None, error: KSIError | None) -> None:
        self._unwritten -= len(chunks)
        self._wake()
        if committed is not None:
            self._deliver_all(chunks, committed)
        elif self._broken is None:
            self._broken = error
            self._stop_task()

    def _deliver_all(self, chunks: list[bytes], committed: Committed) -> None:
        for raw, version in zip(chunks, committed.versions, strict=False):
            self._deliver(f"{self.stream}@{version}", raw)
        self.router.streams.progressed(self.stream)

    def _deliver(self, at: str | None, raw: bytes) -> None:
        if self._sink is not None:
            self._sink.chunk(at, raw)
