"""The shortest way of commands: one inline handler that only decides, called at the door.

Its unit goes to the log before its dispatch returns, so it needs no task, no timer, no key and no context of its own.
Whatever is rare (an id of its own, a draining daemon, a request that parks, a transaction) takes the general way.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ksi.core.context import current
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.ports import Committed, Outcome, Unit
from ksi.kernel.context import EventContext
from ksi.kernel.door import Call, Done, Session
from ksi.kernel.execution import Execution
from ksi.kernel.foreign import ENDS
from ksi.kernel.joining import deliver
from ksi.kernel.middleware import Parked
from ksi.kernel.writing import Written, measuring

if TYPE_CHECKING:
    from ksi.kernel.spec import HandlerSpec
    from ksi.kernel.table import Row


class Deciding(Execution):
    """A command whose handler has returned: what remains of it is its commit."""

    began = ended = True

    def commit_all(self, unit: Unit, raw: bytes) -> None:
        """Hand all of it to the log; ``raw`` is the answer when that is on disk."""
        self.committing = self.opened = True
        self.given = (raw, None)
        done: Written = self._committed
        if self.measured is not None:
            self.measured.part("handler", self.measured.began_us, None)
            done = measuring(self.measured, done)
        self.router.journal.write(unit, done)

    def _committed(self, committed: Committed | None, refused: KSIError | None) -> None:
        if refused is not None:
            self.opened = False  # nothing of it is on disk
            self._closed(None, refused)
            return
        self.committing = False
        self.answered = True
        row, raw = self.row, self.given[0]
        row.calls += 1
        row.latency.add(perf_counter() - self.entered_at)
        if self.measured is not None:
            self.measured.end(None)
        deliver(self.done, self.token, raw, None)
        for each in self.joined:
            deliver(each.done, each.token, raw, None)
        if row.stack.after:
            row.look(self.envelope, None)
        self.router.leave(self)


def compile_deciding(row: Row, handler: HandlerSpec) -> Callable[..., Call | None]:
    """The dispatch of ``row``, whose one handler is inline and without onions, key or slot."""
    router, invoke, decode = row.router, handler.invoke, row.decode
    encode_payload, encode_answer, wants_context = row.spec.payload.encode, row.encode_answer, handler.wants_context
    (first, last), general = row.stack.steps, router.dispatch_row_for(row)
    set_current, reset, time_us = current.set, current.reset, router.clock.time_us
    is_new = router.journal.is_new

    def dispatch(envelope: EventEnvelope, session: Session, done: Done, token: Any) -> Call | None:
        deadline_us, event_id = envelope.deadline_us, envelope.id
        if (
            router.is_draining
            or (deadline_us is not None and deadline_us <= time_us())
            or (event_id is not None and (event_id in router.running or not is_new(event_id)))
        ):
            return general(envelope, session, done, token)
        try:
            envelope.rule = rule = first(envelope, session)
            if rule.__class__ is Parked or last(envelope, session) is not None:
                envelope.rule = None
                return general(envelope, session, done, token)
            payload = envelope.typed or decode(envelope.raw)
            envelope.raw, envelope.typed = encode_payload(payload), None
        except ENDS as raised:  # the router's door: whatever is raised is answered
            row.refuse(row.explain_refusal(raised), envelope, done, token)
            return None
        deciding = Deciding(router, row, envelope, session, payload, done, token)
        context = EventContext(deciding)
        router.enter(deciding)
        scope = set_current(envelope)
        try:
            answer = invoke(payload, context if wants_context else None)
            raw = encode_answer(answer)
        except ENDS as raised:  # the router's door
            deciding.contexts = (context,)  # what it had observed is recorded with its error
            deciding.failed(raised)
        else:
            if context.emits is None and deciding.reads is None:
                unit = Unit(origin=envelope, request=True, outcome=Outcome(True, raw))
                if context.entries is not None:
                    unit.entries = context.entries
                if context.expected is not None:
                    unit.expected = context.expected
                deciding.commit_all(unit, raw)
            else:
                deciding.conclude(raw, (context,))
        finally:
            reset(scope)
            context.is_closed = True
        return deciding

    return dispatch
