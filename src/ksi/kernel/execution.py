"""One request under way: from its key to its answer.

The order is fixed: key and slot → (``before``: the request on disk) → handler → commit of facts, emits and outcome →
answer → emits. Whatever happens, ``done`` is called exactly once. Key and slot are given back when the handler has
really ended *and* its commit is acknowledged, so what is read under a key is current.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ksi.core import canonical, ids
from ksi.core.context import current
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    CancelledError,
    ConflictError,
    DeadlineExceededError,
    EventTimeoutError,
    InternalError,
    InvalidResponseError,
    KSIError,
    NoAnswerError,
    StoreError,
)
from ksi.core.ports import Committed, Outcome, Unit
from ksi.core.views import View
from ksi.kernel.context import EventContext
from ksi.kernel.door import Done, Session
from ksi.kernel.reads import Reads, RecordingReader

if TYPE_CHECKING:
    from ksi.core.ports import Known
    from ksi.kernel.router import Router
    from ksi.kernel.spec import HandlerSpec
    from ksi.kernel.table import Row

CANCEL_GRACE = 5.0
"""Seconds that a cancelled handler has to end before its caller is told without it."""
_log = logging.getLogger("ksi.kernel")


class Execution:
    """A request that takes more than a call: recorded, keyed, asynchronous, limited or nested."""

    __slots__ = (
        "_tick",
        "above",
        "answered",
        "began",
        "cancelled",
        "committing",
        "contexts",
        "done",
        "ended",
        "envelope",
        "given",
        "held",
        "is_rerun",
        "joined",
        "locks",
        "opened",
        "ordinal",
        "ordinals",
        "parent",
        "payload",
        "reads",
        "router",
        "row",
        "session",
        "skip",
        "task",
        "token",
    )

    def __init__(
        self,
        router: Router,
        row: Row,
        envelope: EventEnvelope,
        session: Session,
        payload: Any,
        done: Done,
        token: Any,
        parent: Execution | None = None,
    ) -> None:
        self.router = router
        self.row = row
        self.envelope = envelope
        self.session = session
        self.payload = payload
        self.done = done
        self.token = token
        self.parent = parent
        self.above = parent
        self.contexts: list[EventContext] = []
        self.joined: list[tuple[Done, Any]] | None = None
        self.given: tuple[bytes | None, KSIError | None] = (None, None)
        self.locks: Sequence[tuple[str, int]] = ()
        self.held = 0
        self.task: asyncio.Task[None] | None = None
        self._tick: int | None = None
        self.began = self.answered = self.cancelled = self.committing = self.ended = False
        self.opened = self.is_rerun = False
        self.ordinal = 1
        self.ordinals: dict[str, int] | None = None
        self.skip = 0
        self.reads: Reads | None = None

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def rank(self) -> int:
        return self.envelope.priority

    @property
    def owner(self) -> str:
        return self.row.owner

    @property
    def is_query(self) -> bool:
        return self.row.is_query

    @property
    def is_recorded(self) -> bool:
        return self.row.is_recorded

    def child(self, name: str, raw: bytes, *, awaited: bool) -> EventEnvelope:
        """The envelope of a request made here. Its id comes out of this one's id, its causal path and its ordinal."""
        if self.ordinals is None:
            self.ordinals = {}
        step = f"{name}{'#' if awaited else '!'}"
        ordinal = self.ordinals[step] = self.ordinals.get(step, 0) + 1
        above = self.envelope
        envelope = EventEnvelope(
            name=name,
            raw=raw,
            source=f"plugin:{self.owner}",
            id=ids.derived(above.event_id, step, ordinal),
            time_us=self.router.clock.time_us(),
            priority=above.priority,
            path=f"{above.path or above.name}/{step}{ordinal}",
        )
        return envelope.caused_by(above)

    def view(self, view: type[View[Any]]) -> Any:
        reader = self.router.journal.view(view, branch=self.envelope.branch)
        recorder = self.read_recorder()
        return reader if recorder is None else RecordingReader(reader, view.name, recorder)

    def read_recorder(self) -> Reads | None:
        """Where reads are noted: a recorded request's own list, or for a query the list of its own that ends there."""
        if self.reads is None and (self.is_recorded or self.parent is not None):
            self.reads = Reads(with_values=self.row.is_before)
        return self.reads

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
            self._write(Unit(origin=self.envelope), self._opened)
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
        self.contexts.append(context)
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
        self._write(self._closing(raw, error, contexts), self._concluded(raw, error))

    def _is_final(self, error: KSIError) -> bool:
        """Whether a retry is given this error again: a conflict of a command that is not on disk may be tried anew."""
        return self.opened or not isinstance(error, StoreError)

    def _closing(self, raw: bytes | None, error: KSIError | None, contexts: Sequence[EventContext]) -> Unit:
        unit = Unit(origin=self.envelope, outcome=self.outcome(raw, error))
        if error is None:
            for context in contexts:
                gather(unit, context)
        return unit

    def outcome(self, raw: bytes | None, error: KSIError | None) -> Outcome:
        metadata = None if self.reads is None else self.reads.as_metadata()
        if error is None:
            return Outcome(True, raw or b"{}", metadata)
        return Outcome(False, error_json(error), metadata)

    def _concluded(self, raw: bytes | None, error: KSIError | None) -> Callable[..., None]:
        def written(committed: Committed | None, refused: KSIError | None) -> None:
            if refused is not None and self.opened and isinstance(refused, StoreError):
                self._write(
                    Unit(origin=self.envelope, outcome=self.outcome(None, refused)), self._concluded(None, refused)
                )
                return
            self._answer(None if refused else raw, refused or error)
            self._leave()

        return written

    def _write(self, unit: Unit, done: Callable[[Committed | None, KSIError | None], None]) -> None:
        """Commit ``unit`` in the name of this request; its emits start when it is on disk.

        The request's own row, and those of its ancestors, go in front where they are not on disk yet: from then on
        they count as begun.
        """
        opens = not self.opened
        unit.request = opens
        unit.ancestors = self._unopened_ancestors()
        unit.ordinal = self.ordinal
        self._drop_recorded(unit)
        emits = unit.emits
        closes = unit.outcome is not None
        self.ordinal += len(unit.entries) + closes
        if not closes or emits:
            self.opened = True

        def written(committed: Committed | None, error: KSIError | None) -> None:
            if error is not None:
                self.opened = self.opened and not opens
            else:
                self.opened = True
            done(committed, error)
            if error is None:
                for envelope in emits:
                    self.router.start_recorded(envelope, self.session)

        self.router.journal.write(unit, written)

    def _unopened_ancestors(self) -> list[EventEnvelope]:
        above: list[EventEnvelope] = []
        execution = self.parent
        while execution is not None:
            if execution.is_recorded and not execution.opened:
                execution.opened = True
                above.append(execution.envelope)
            execution = execution.parent
        above.reverse()
        return above

    def _drop_recorded(self, unit: Unit) -> None:
        """A rerun says again what was committed before the crash: that much is left out."""
        if self.skip:
            facts = [entry for entry in unit.entries if entry.kind == "fact"][: self.skip]
            self.skip -= len(facts)
            unit.entries = [entry for entry in unit.entries if not any(entry is fact for fact in facts)]
        if self.is_rerun and unit.emits:
            recorded = self.router.recorded_effects.get(self.envelope.event_id)
            requested = set() if recorded is None else recorded.requested
            unit.emits = [emit for emit in unit.emits if emit.event_id not in requested]

    async def commit(self, context: EventContext) -> None:
        """Put on disk what ``context`` has buffered."""
        unit = Unit(origin=self.envelope)
        gather(unit, context)
        await self.written(unit)

    async def written(self, unit: Unit) -> Committed:
        """Commit ``unit`` and wait until it is acknowledged. A cancel does not take it back."""
        future: asyncio.Future[Committed] = self.router.loop.create_future()

        def done(committed: Committed | None, error: KSIError | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(committed)  # type: ignore[arg-type]  # one of the two is set

        self._write(unit, done)
        return await future

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
            self._write(unit, lambda committed, refused: self._answer(None, refused or error))
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

    # ── after a crash ────────────────────────────────────────────────────────────────────────────────────────────────
    def recover(self, *, facts: int) -> Execution:
        """Mark as a rerun: its request is on disk already, and ``facts`` of its facts are."""
        self.opened = self.is_rerun = True
        self.skip = facts
        self.ordinal = 1 + facts
        return self

    def matches(self, known: Known | EventEnvelope) -> bool:
        return same_content(self.envelope, known if isinstance(known, EventEnvelope) else known.request)


def gather(unit: Unit, context: EventContext) -> None:
    """Move what ``context`` has buffered into ``unit``."""
    if context.entries:
        unit.entries = unit.entries + context.entries
        context.entries = None
    if context.emits:
        unit.emits = unit.emits + context.emits
        context.emits = None
    if context.expected:
        unit.expected = {**unit.expected, **context.expected}
        context.expected = None


def error_json(error: KSIError) -> bytes:
    """``{"code", "message", "details"}``, as the wire and the log have it."""
    return canonical.encode({"code": _code(error), "message": error.message, "details": error.details()})


def _code(error: KSIError) -> str:
    return getattr(error, "remote_code", None) or error.code


def same_content(one: EventEnvelope, other: EventEnvelope) -> bool:
    """Name, principal, branch and data are the same; trace, deadline and priority do not count."""
    return (one.name, one.principal, one.branch) == (other.name, other.principal, other.branch) and (
        one.raw == other.raw or one.data == other.data
    )


def conflicting(envelope: EventEnvelope) -> ConflictError:
    event_id = ids.text(envelope.event_id)
    return ConflictError(f"event id {event_id} was used before with other content", event_id=event_id)
