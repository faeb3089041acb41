"""One request under way: from its key to its answer.

The order is fixed: key and slot → (``before``: the request on disk) → handler → commit of facts, emits and outcome →
answer → emits. Whatever happens, ``done`` is called exactly once. Key and slot are given back when the handler has
really ended *and* its commit is acknowledged, so what is read under a key is current.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
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
    StoreError,
)
from ksi.core.ports import Committed, Unit
from ksi.kernel.context import EventContext
from ksi.kernel.door import Done
from ksi.kernel.writing import WritingRequest, gather

if TYPE_CHECKING:
    from ksi.kernel.spec import HandlerSpec

CANCEL_GRACE = 5.0
"""Seconds that a cancelled handler has to end before its caller is told without it."""
_log = logging.getLogger("ksi.kernel")


class Execution(WritingRequest):
    """A request that takes more than a call: recorded, keyed, asynchronous, limited or nested."""

    task: asyncio.Task[None] | None = None
    _tick: int | None = None

    # ── begin ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        """Wait for the key and the slot, then begin."""
        self.router.enter(self)
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
        elif self.cancelled:
            self._conclude(None, CancelledError(self.envelope.name), ())
        else:
            self._handle()

    def _refuse(self, error: KSIError) -> None:
        """End before the handler began: nothing is recorded, a retry runs."""
        self._answer(None, error)
        self._leave()

    # ── handle ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _handle(self) -> None:
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

    def new_context(self) -> EventContext:
        context = EventContext(self)
        self.contexts = (*self.contexts, context)
        return context

    def _call(self, handler: HandlerSpec, context: EventContext | None) -> None:
        token = current.set(self.envelope)
        try:
            answer = handler.invoke(self.payload, context)
        except Exception as error:  # noqa: BLE001  # the router's door: whatever a handler raises is answered
            self.failed(error)
        else:
            self.returned(answer, context)
        finally:
            current.reset(token)

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
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the router's door
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
        if isinstance(error, asyncio.CancelledError):
            error = CancelledError(self.envelope.name)
        elif not isinstance(error, KSIError):
            _log.error("%s: handler of %s failed", self.owner, self.envelope.name, exc_info=error)
            error = InternalError(f"handler of {self.envelope.name!r}", f"{type(error).__name__}: {error}")
        self._conclude(None, error, ())

    def conclude(self, raw: bytes, contexts: Sequence[EventContext]) -> None:
        """Several handlers ended; ``contexts`` are those whose facts count."""
        self._conclude(raw, None, contexts)

    # ── conclude ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _conclude(self, raw: bytes | None, error: KSIError | None, contexts: Sequence[EventContext]) -> None:
        """The handler has really ended; what remains is to record and to answer."""
        self.ended = True
        for context in self.contexts:
            context.is_closed = True
        if self.answered or self.committing:
            self._leave()
            return
        if self.cancelled and error is None:
            error = CancelledError(self.envelope.name)
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
        return unit

    def _closed(self, committed: Committed | None, refused: KSIError | None) -> None:
        """The outcome is on disk; or it was refused, and where the request is there, that is the outcome."""
        raw, error = self.given
        if refused is None:
            self._answer(raw, error)
            self._leave()
        elif self.opened and isinstance(refused, StoreError):
            self.given = (None, refused)
            self.write(Unit(origin=self.envelope, outcome=self.outcome(None, refused)), self._closed)
        else:
            self._answer(None, refused)
            self._leave()

    # ── answer ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _answer(self, raw: bytes | None, error: KSIError | None) -> None:
        if self.answered:
            return
        self.answered = True
        self.given = (raw, error)
        if self._tick is not None:
            self.router.wheel.remove(self, self._tick)
        self.row.count(error)
        if self.parent is not None and self.is_query and self.parent.read_recorder() is not None:
            self.parent.read_recorder().query(self.envelope, raw, error, self.reads)  # type: ignore[union-attr]  # asked above
        self.done(self.token, raw, error)
        for done, token in self.joined or ():
            done(token, raw, error)

    def _leave(self) -> None:
        """Give back key and slot; the request is over."""
        held, self.held = self.held, 0
        for name, _ in reversed(self.locks[:held]):
            self.router.keys.release(name, self)
        self.contexts = ()  # they hold this: a circle would be left to the collector with each request
        self.router.leave(self)

    def settle(self, raw: bytes | None, error: KSIError | None) -> None:
        """Answer what the log knows already; nothing runs."""
        self.router.running.pop(self.envelope.event_id, None)
        self._answer(raw, error)

    def join(self, done: Done, token: Any) -> None:
        """Somebody else waits for the same answer; it may be out already, while the handler still has to end."""
        if self.answered:
            done(token, *self.given)
            return
        if self.joined is None:
            self.joined = []
        self.joined.append((done, token))

    # ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _set_limit(self) -> None:
        seconds = self.row.timeout
        if self.envelope.deadline_us is not None:
            left = (self.envelope.deadline_us - self.router.clock.time_us()) / 1e6
            seconds = left if seconds is None else min(seconds, left)
        if seconds is not None and (self.row.can_wait or self.locks):
            self._tick = self.router.wheel.add(self, seconds)

    def expire(self) -> None:
        """Its time is over: the answer goes out now, the handler is told, key and slot stay until it has ended."""
        self._tick = None
        if self.answered or self.committing:
            return
        name, limit = self.envelope.name, self.row.timeout
        deadline = self.envelope.deadline_us
        if self.cancelled:
            self._give_up(CancelledError(name))
        elif deadline is not None and deadline <= self.router.clock.time_us():
            self._give_up(DeadlineExceededError(name))
        else:
            self._give_up(EventTimeoutError(name, seconds=limit or 0.0))

    def cancel(self) -> None:
        """The caller wants no more."""
        if self.answered or self.committing or self.cancelled:
            return
        self.cancelled = True
        if not self.began or self.task is None:
            self._give_up(CancelledError(self.envelope.name))
            return
        if self._tick is not None:
            self.router.wheel.remove(self, self._tick)
        self._tick = self.router.wheel.add(self, CANCEL_GRACE)
        self._stop_task()

    def _give_up(self, error: KSIError) -> None:
        if not self.began:
            self._stop_waiting()
            self._refuse(error)
            return
        for context in self.contexts:
            context.is_closed = True
        self._stop_task()
        if self.is_recorded and self.opened:
            self.committing = True
            unit = Unit(origin=self.envelope, outcome=self.outcome(None, error))
            self.write(unit, lambda committed, refused: self._answer(None, refused or error))
        else:
            self._answer(None, error)

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
