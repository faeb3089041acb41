"""The short ways of queries: one handler, nothing recorded, no :class:`~ksi.kernel.execution.Execution`.

One that never waits is answered at the door; one that may wait gets a task and a place in the wheel of time limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from ksi.core.context import current
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import CancelledError, EventTimeoutError, KSIError, ValidationError
from ksi.core.tracing import Measured, Tracer
from ksi.kernel.door import Call, Done, Session
from ksi.kernel.foreign import ENDS
from ksi.kernel.joining import deliver
from ksi.kernel.middleware import Parked

if TYPE_CHECKING:
    from ksi.kernel.spec import HandlerSpec
    from ksi.kernel.table import Row

REFUSED_ANSWERS = (ValidationError, msgspec.MsgspecError, ValueError, TypeError, RecursionError)

TIMED_EVERY = 16
"""Of so many queries that may wait one is timed: the clock costs them a twentieth. Inline ones never wait."""


def compile_inline(row: Row, handler: HandlerSpec) -> Callable[..., Call | None]:
    """The shortest way: nothing waits, nothing is recorded."""
    (first, last), after = row.stack.steps, row.stack.after
    invoke = handler.alone or (lambda payload: handler.invoke(payload, None))
    encode, decode = row.spec.answer.encode, row.decode
    set_current, reset = current.set, current.reset
    general = row.router.dispatch_row_for(row)

    def answer_now(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> bytes | None:
        row.calls += 1
        try:
            if first(envelope, session).__class__ is Parked or last(envelope, session) is not None:
                general(envelope, session, done, token)
                return None
            payload = envelope.typed or decode(envelope.raw)
        except ENDS as raised:  # the router's door: whatever is raised is answered
            row.refuse_counted(row.explain_refusal(raised), envelope, done, token)
            return None
        scope = set_current(envelope)
        try:
            answer = invoke(payload)
        except ENDS as raised:  # the router's door
            row.refuse_counted(row.explain(raised), envelope, done, token)
            return None
        finally:
            reset(scope)
        try:
            return encode(answer)
        except REFUSED_ANSWERS as raised:
            row.refuse_counted(row.explain_answer(answer, raised), envelope, done, token)
            return None

    def dispatch(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        raw = answer_now(envelope, session, done, token)
        if raw is not None:
            done(token, raw, None)
            if after:
                row.look(envelope, None)

    if not after:
        row.answer_now = answer_now
    return dispatch


def compile_async(row: Row, handler: HandlerSpec) -> Callable[..., Call | None]:
    """A query that may wait: one task, no commit. The limit stands in the wheel."""
    first, last = row.stack.steps
    invoke, decode = handler.invoke, row.decode
    router, timeout = row.router, row.timeout
    general = router.dispatch_row_for(row)
    create_task, fresh_context, set_current = router.loop.create_task, router.fresh_context, current.set
    limit, under_way = router.wheel.add, router.queries.add

    def dispatch(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        if envelope.deadline_us is not None:
            return general(envelope, session, done, token)
        try:
            if first(envelope, session).__class__ is Parked or last(envelope, session) is not None:
                return general(envelope, session, done, token)
            payload = envelope.typed or decode(envelope.raw)
        except ENDS as raised:  # the router's door
            row.refuse(row.explain_refusal(raised), envelope, done, token)
            return None
        query = AsyncQuery(row, envelope, done, token)
        scope = fresh_context()
        scope.run(set_current, envelope)
        if timeout is not None:
            query.tick = limit(query, timeout)
        under_way(query)
        query.task = create_task(query.run(invoke, payload), context=scope)
        return query

    return dispatch


def measured(dispatch: Callable[..., Call | None], tracer: Tracer) -> Callable[..., Call | None]:
    """``dispatch`` of a query from the door, as a span."""

    def begin(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        return dispatch(envelope, session, end_measured, (done, token, tracer.begin(envelope)))

    return begin


def end_measured(token: tuple[Done, Any, Measured | None], raw: bytes | None, error: KSIError | None) -> None:
    """A query that is a span has its answer."""
    done, inner, span = token
    if span is not None:
        span.end(error)
    done(inner, raw, error)


class AsyncQuery:
    """A query under way in a task of its own."""

    __slots__ = ("_began_at", "_done", "_envelope", "_is_answered", "_row", "_token", "task", "tick")
    task: asyncio.Task[None]

    def __init__(self, row: Row, envelope: EventEnvelope, done: Done, token: Any) -> None:
        self._row = row
        self._envelope = envelope
        self._done = done
        self._token = token
        self._is_answered = False
        self._began_at = perf_counter() if row.calls % TIMED_EVERY == 0 else None
        self.tick: int | None = None

    @property
    def row(self) -> Row:
        return self._row

    async def run(self, invoke: Callable[..., Awaitable[Any]], payload: Any) -> None:
        row = self._row
        try:
            raw = row.encode_answer(await invoke(payload, None))
        except ENDS as error:  # the router's door
            self._answer(None, row.explain(error))
        else:
            self._answer(raw, None)
        row.router.query_ended(self)

    def _answer(self, raw: bytes | None, error: KSIError | None) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        row = self._row
        if self.tick is not None:
            row.router.wheel.remove(self, self.tick)
        row.count(error)
        if self._began_at is not None:
            row.latency.add(perf_counter() - self._began_at)
        deliver(self._done, self._token, raw, error)
        row.look(self._envelope, error)

    def cancel(self) -> None:
        self._stop(CancelledError(self._row.name))

    abort = cancel
    """Nobody else can wait for a query."""

    def expire(self) -> None:
        self.tick = None
        self._stop(EventTimeoutError(self._row.name, seconds=self._row.timeout or 0.0))

    def _stop(self, error: KSIError) -> None:
        self._answer(None, error)
        self.task.cancel()
        self.task.add_done_callback(lambda task: self._row.router.query_ended(self))  # it may never have begun
