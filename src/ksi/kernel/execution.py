"""One request under way: from its key to its answer.

The order is fixed: key and slot → (``before``: the request on disk) → handler → commit of facts, emits and outcome →
answer → emits. Whatever happens, ``done`` is called exactly once. Key and slot are given back when the handler has
really ended *and* its commit is acknowledged, so what is read under a key is current.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ksi.core.context import current
from ksi.core.errors import (
    CancelledError,
    DeadlineExceededError,
    EventTimeoutError,
    InternalError,
    InvalidResponseError,
    KSIError,
    NoAnswerError,
    StoreClosedError,
    StoreError,
    UnavailableError,
)
from ksi.core.ports import Committed, Outcome, Unit
from ksi.kernel.context import EventContext
from ksi.kernel.door import Done
from ksi.kernel.effects import EFFECTS, take_entries
from ksi.kernel.foreign import ENDS
from ksi.kernel.joining import Deadline, Joined, deliver
from ksi.kernel.resume import ended
from ksi.kernel.writing import WritingRequest, gather

if TYPE_CHECKING:
    from ksi.kernel.spec import HandlerSpec
    from ksi.kernel.table import Row

CANCEL_GRACE = 5.0
"""Seconds that a cancelled handler has to end before its caller is told without it."""
_log = logging.getLogger("ksi.kernel")


class Execution(WritingRequest):
    """A request that takes more than a call: recorded, keyed, asynchronous, limited or nested."""

    parent: Execution | None
    task: asyncio.Task[None] | None = None
    _tick: int | None = None
    _limit_at = 0.0
    """Loop time at which it expires; while it stands still, the seconds that are left."""
    _spare = 0.0
    """Seconds from the caller's deadline to the event's own limit: as much later it may end for others."""
    _paused = 0
    watched: Sequence[tuple[Done, Any]] = ()
    deadlines: Sequence[Deadline] = ()
    """Those of the ones who wait for it together, once there are several."""
    heir: Joined | None = None
    """Who has taken the place of the one who asked first."""
    _handled_us = 0
    """When its handler began, where that is measured."""

    # ── begin ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        """Wait for the key and the slot, then begin."""
        if self.answered:
            return
        if self._is_late():
            self._refuse(DeadlineExceededError(self.envelope.name))
            return
        self._set_limit()
        if self.locks:
            self._acquire()
        else:
            self._begin()

    def _acquire(self) -> None:
        if self.held == len(self.locks):
            self._begin()
            return
        name, capacity = self.locks[self.held]
        try:
            self.router.keys.acquire(
                name, self, self._locked, capacity=capacity, queued_max=self.row.declaration.queued_max
            )
        except KSIError as error:
            self._refuse(error)

    def _locked(self) -> None:
        self.held += 1
        self._acquire()

    def _begin(self) -> None:
        self.began = True
        if self.row.is_before and not self.opened:
            self.write(Unit(origin=self.envelope), self._opened)
        else:
            self._handle()

    def _opened(self, committed: Committed | None, error: KSIError | None) -> None:
        if error is not None:
            self._refuse(error)
        elif self.answered or self.committing:
            self._conclude(None, None, ())
        else:
            self._handle()

    def _refuse(self, error: KSIError) -> None:
        """End before the handler began: nothing is recorded, so a retry runs. A request on disk is closed.

        When the daemon stops that one is left open: the next start runs it.
        """
        self.ended = True
        if self.committing:
            return
        if self.opened and not self.router.is_draining:
            self._record_end(error)
            return
        self._answer(None, error)
        self._leave()

    # ── handle ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _handle(self) -> None:
        if self.measured is not None:
            self._handled_us = self.measured.now()
        handlers = self.row.handlers
        if len(handlers) > 1 or self.row.stack.onions:
            self._spawn(self.row.handle_many(self))
            return
        handler = handlers[0]
        context = self.new_context() if handler.wants_context else None
        match handler.mode:
            case "inline":
                self._call(handler, context)
            case "blocking":
                self._call_in_thread(handler, context)
            case _:
                self._spawn(self._await(handler, context))

    def new_context(self, scope: str = "") -> EventContext:
        context = EventContext(self, scope)
        self.contexts = (*self.contexts, context)
        return context

    def _call(self, handler: HandlerSpec, context: EventContext | None) -> None:
        # In a context of its own: this may be called where another request has just ended.
        scope = self.router.fresh_context()
        scope.run(current.set, self.envelope)
        try:
            answer = scope.run(handler.invoke, self.payload, context)
        except ENDS as error:  # the router's door
            self.failed(error)
        else:
            self.returned(answer, context)

    def _call_in_thread(self, handler: HandlerSpec, context: EventContext | None) -> None:
        def done(answer: Any, error: BaseException | None) -> None:
            if error is None:
                self.returned(answer, context)
            else:
                self.failed(error)

        scope = self.router.fresh_context()
        scope.run(current.set, self.envelope)
        scope.run(self.router.threads.submit, "blocking", lambda: handler.invoke(self.payload, context), done)

    def _spawn(self, coroutine: Any) -> None:
        scope = self.router.fresh_context()
        scope.run(current.set, self.envelope)
        self.task = self.router.loop.create_task(coroutine, context=scope)

    async def _await(self, handler: HandlerSpec, context: EventContext | None) -> None:
        try:
            answer = await handler.invoke(self.payload, context)
        except ENDS as error:  # the router's door
            self.failed(error)
        else:
            self.returned(answer, context)

    def returned(self, answer: Any, context: EventContext | None) -> None:
        """The handler ended with ``answer``."""
        try:
            raw = self.row.encode_answer(answer)
        except (NoAnswerError, InvalidResponseError) as error:
            self._conclude(None, error, ())
        else:
            self._conclude(raw, None, () if context is None else (context,))

    def failed(self, error: BaseException) -> None:
        """The handler raised."""
        self._conclude(None, self.row.explain(error), ())

    def conclude(self, raw: bytes, contexts: Sequence[EventContext]) -> None:
        """Several handlers ended; ``contexts`` are those whose facts count."""
        self._conclude(raw, None, contexts)

    # ── conclude ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _conclude(self, raw: bytes | None, error: KSIError | None, contexts: Sequence[EventContext]) -> None:
        """The handler has really ended; what remains is to record and to answer."""
        self.ended = True
        self._close_contexts()
        if self.measured is not None and self._handled_us:
            self.measured.part("handler", self._handled_us, error)
        if self.committing:
            return
        if self.answered:
            self._leave()
            return
        if self.cancelled and error is None:
            raw, error = None, CancelledError(self.envelope.name)
        if not self.is_recorded or (error is not None and not self._is_final(error)):
            self._answer(raw, error)
            self._leave()
            return
        self.committing = True
        self.given = (raw, error)
        self.write(self._closing(raw, error, contexts), self._closed)

    def _is_final(self, error: KSIError) -> bool:
        """Whether a retry is given this error again: a conflict of a command that is not on disk may be tried anew."""
        return self.opened or not isinstance(error, StoreError)

    def _closing(self, raw: bytes | None, error: KSIError | None, contexts: Sequence[EventContext]) -> Unit:
        unit = Unit(origin=self.envelope, outcome=self.outcome(raw, error))
        if error is None:
            for context in contexts:
                gather(unit, context)
        else:  # what it had seen of the outside world explains the error
            unit.entries = [entry for context in self.contexts for entry in take_entries(context, EFFECTS)]
        return unit

    def _closed(self, committed: Committed | None, refused: KSIError | None) -> None:
        """The outcome is on disk; or it was refused, and where the request is there, that is the outcome."""
        if isinstance(refused, InternalError):
            _log.error("the commit of %s failed", self.envelope.name, exc_info=refused)
        if refused is None:
            self._finish(*self.given)
        elif self.opened and not isinstance(refused, StoreClosedError | UnavailableError):
            self._record_end(refused)
        else:
            self._finish(None, refused)

    def _record_end(self, error: KSIError) -> None:
        """Close a request that is on disk with ``error``, then answer."""
        self.committing = True
        unit = Unit(origin=self.envelope, outcome=self.outcome(None, error))
        self.write(unit, lambda committed, refused: self._finish(None, refused or error))

    def _finish(self, raw: bytes | None, error: KSIError | None) -> None:
        """What there was to record is recorded, or can not be."""
        self.committing = False
        self._answer(raw, error)
        if self.ended:
            self._leave()

    # ── answer ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _answer(self, raw: bytes | None, error: KSIError | None) -> None:
        if self.answered:
            return
        self.answered = True
        self.given = (raw, error)
        self._stop_limit()
        for deadline in self.deadlines:
            deadline.stop()
        self.row.count(error)
        self.row.latency.add(perf_counter() - self.entered_at)
        if self.measured is not None:
            self.measured.end(error)
        if self.parent is not None and self.is_query and (reads := self.parent.read_recorder()) is not None:
            reads.query(self.envelope, raw, error, self.reads)
        deliver(self.done, self.token, raw, error)
        for each in self.joined:
            deliver(each.done, each.token, raw, error)
        for told, about in self.watched:
            deliver(told, about, raw, error)
        if self.row.stack.after:
            self.row.look(self.envelope, error)

    def _leave(self) -> None:
        """Give back key and slot; the request is over."""
        held, self.held = self.held, 0
        self.contexts = ()  # they hold this: a circle would be left to the collector with each request
        self.router.leave(self)
        for name, _ in reversed(self.locks[:held]):
            self.router.keys.release(name, self)

    def settle(self, raw: bytes | None, error: KSIError | None) -> None:
        """Answer without a run."""
        self.ended = True
        self._answer(raw, error)
        self._leave()

    def replay(self, outcome: Outcome) -> None:
        """Answer as the log says that it was answered."""
        self.read_back()
        self.settle(*ended(outcome))

    def read_back(self) -> None:
        """It will not run again: the reader of a stream is shown the chunks that the log holds, then the end."""

    def join(self, done: Done, token: Any, deadline_us: int | None) -> Joined | None:
        """Somebody else waits for the same answer; it may be out already, while the handler still has to end."""
        if self.answered:
            done(token, *self.given)
            return None
        joined = Joined(self, done, token)
        self.take_in(joined, deadline_us)
        return joined

    def watch(self, done: Done, token: Any) -> None:
        """Let ``done`` see how it ends. It is nobody that the request goes on for."""
        self.watched = (*self.watched, (done, token))

    def take_in(self, joined: Joined, deadline_us: int | None) -> None:
        """From now on it takes as long as the most patient one waits, and each is told of its own deadline."""
        self.joined = (*self.joined, joined)
        own = self.envelope.deadline_us
        if own is not None and not self.deadlines:
            self._wait_until(own, self._first_is_late)
        if deadline_us is not None:
            self._wait_until(deadline_us, joined.late)
        if own is not None and (deadline_us is None or deadline_us > own):
            for each in self.router.family(self):
                if each.envelope.deadline_us == own:  # what is requested here took it over
                    each.put_off(deadline_us)

    def _wait_until(self, deadline_us: int, late: Callable[[], None]) -> None:
        deadline = Deadline(self.router, deadline_us, late)
        self.deadlines = (*self.deadlines, deadline)
        if self._paused == 0:
            deadline.start()

    def _first_is_late(self) -> None:
        self.part(None, DeadlineExceededError(self.envelope.name))

    def part(self, who: Joined | None, error: KSIError) -> None:
        """``who`` (None: the one who asked first) waits no more. It goes on for the others, where there are any."""
        if self.is_ending:
            return
        if who is not None and who in self.joined:
            self.joined = tuple(each for each in self.joined if each is not who)
            who.leave(error)
        elif who is self.heir and self.joined:
            self._hand_over(error)
        elif who is self.heir:
            self._end_early(error)

    def _end_early(self, error: KSIError) -> None:
        """Nobody waits any more."""
        if isinstance(error, CancelledError):
            self.abort()
        else:
            self.give_up(error)

    # ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _is_late(self) -> bool:
        deadline = self.envelope.deadline_us
        return deadline is not None and deadline <= self.router.clock.time_us()

    def _set_limit(self) -> None:
        seconds = self.row.timeout
        if self.envelope.deadline_us is not None:
            left = (self.envelope.deadline_us - self.router.clock.time_us()) / 1e6
            self._spare = math.inf if seconds is None else max(seconds - left, 0.0)
            seconds = left if seconds is None else min(seconds, left)
        if seconds is not None and (self.row.can_wait or self.locks):
            self._limit(seconds)

    def _limit(self, seconds: float) -> None:
        self._limit_at = self.router.loop.time() + seconds
        self._tick = self.router.wheel.add(self, seconds)

    def _stop_limit(self) -> None:
        if self._tick is not None:
            self.router.wheel.remove(self, self._tick)
            self._tick = None

    def put_off(self, deadline_us: int | None) -> None:
        """Its deadline is later, or there is none; the event's own limit stays."""
        own, self.envelope.deadline_us = self.envelope.deadline_us, deadline_us
        more = math.inf if own is None or deadline_us is None else (deadline_us - own) / 1e6
        more = min(more, self._spare)
        if not self._limit_at or self.cancelled:
            return
        is_running = self._tick is not None
        self._stop_limit()
        if more == math.inf:
            self._limit_at = 0.0
            return
        self._spare -= more
        self._limit_at += more
        if is_running:
            self._limit(self._limit_at - self.router.loop.time())

    def stand(self) -> None:
        """It is parked: nothing of it runs until :meth:`renew`."""
        self.is_parked = self.began = self.ended = True
        self.pause()

    def renew(self, row: Row, payload: Any, locks: Sequence[tuple[str, int]]) -> None:
        """It may begin, in the code of today."""
        self.row = row
        self.payload = payload
        self.locks = locks
        self.is_parked = self.began = self.ended = False

    def let_go(self, error: KSIError) -> None:
        """Answer it and those who await it, without a word in the log: the next start goes on with what is open."""
        above = self.parent
        while above is not None:
            above._close_contexts()  # noqa: SLF001  # another one of this class
            above._answer(None, error)  # noqa: SLF001  # the same
            above = above.parent
        self.settle(None, error)

    def pause(self) -> None:
        """Something that it awaits is parked: its limit, and those of the ones that await it, stand still."""
        self._paused += 1
        for deadline in self.deadlines:
            deadline.stop()
        if self._paused == 1 and self._tick is not None:
            self._stop_limit()
            self._limit_at -= self.router.loop.time()
        if self.parent is not None:
            self.parent.pause()

    def go_on(self, stood_us: int) -> None:
        """The parked one runs, or has ended, after ``stood_us`` microseconds."""
        self._paused -= 1
        if self.envelope.deadline_us is not None:
            self.envelope.deadline_us += stood_us
        for deadline in self.deadlines:
            deadline.put_off(stood_us)
            if self._paused == 0 and not self.answered:
                deadline.start()
        if self._paused == 0 and self._limit_at and self._tick is None and not self.answered:
            self._limit(self._limit_at)
        if self.parent is not None:
            self.parent.go_on(stood_us)

    def expire(self) -> None:
        """Its time is over: the answer goes out now, the handler is told, key and slot stay until it has ended."""
        self._tick = None
        if self.answered or self.committing:
            return
        name = self.envelope.name
        if self.cancelled:
            self.give_up(CancelledError(name))
        elif self._is_late():
            self.give_up(DeadlineExceededError(name))
        else:
            self.give_up(EventTimeoutError(name, seconds=self.row.timeout or 0.0))

    def cancel(self) -> None:
        """The caller wants no more; where others wait for the same, it goes on for them."""
        self.part(None, CancelledError(self.envelope.name))

    @property
    def is_ending(self) -> bool:
        return self.answered or self.committing or self.cancelled

    def abort(self) -> None:
        """Cancel it, whoever waits."""
        if self.is_ending:
            return
        self.cancelled = True
        if not self.began or self.task is None:
            self.give_up(CancelledError(self.envelope.name))
            return
        self._stop_limit()
        self._limit(CANCEL_GRACE)
        self._stop_task()

    def _hand_over(self, error: KSIError) -> None:
        """Others wait for the same: the first of them takes the place of the one who goes."""
        done, token = self.done, self.token
        self.heir, self.joined = self.joined[0], self.joined[1:]
        self.done, self.token = self.heir.done, self.heir.token
        deliver(done, token, None, error)

    def give_up(self, error: KSIError) -> None:
        """Answer now, whatever the handler does."""
        if not self.began:
            self._stop_waiting()
            self._refuse(error)
            return
        self._close_contexts()
        self._stop_task()
        if self.is_recorded and self.opened:
            self._record_end(error)
            return
        self._answer(None, error)
        if self.ended:
            self._leave()

    def _close_contexts(self) -> None:
        for context in self.contexts:
            context.is_closed = True

    def _stop_task(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never runs: then nobody but this says that it ended."""
        if not self.ended:
            self.failed(asyncio.CancelledError())

    def _stop_waiting(self) -> None:
        if self.held < len(self.locks):
            self.router.keys.forget(self.locks[self.held][0], self)
