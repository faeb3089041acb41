"""What an observer may do: the same context as a handler's, in the name of the fact that it saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.ports import Unit
from ksi.kernel.context import EventContext
from ksi.kernel.door import Session
from ksi.kernel.execution import Execution
from ksi.kernel.rerun import History
from ksi.kernel.writing import Written, gather

if TYPE_CHECKING:
    from ksi.kernel.router import Router


class ObserverRow(msgspec.Struct, frozen=True):
    """The row of something that nobody requests: what an execution asks of its row, and no more."""

    owner: str
    is_query: bool = False
    is_recorded: bool = True
    is_before: bool = True


class Reaction(Execution):
    """One fact seen by one observer.

    Its id comes out of the fact's, so what it requests happens once, however often the fact is shown to it.
    """

    def __init__(self, router: Router, envelope: EventEnvelope, owner: str) -> None:
        session = Session(principal=envelope.principal, source=envelope.source)
        row: Any = ObserverRow(owner)
        super().__init__(router, row, envelope, session, None, lambda *_: None, None)
        self.recover(History())
        self.context = EventContext(self)

    def child(self, name: str, raw: bytes, *, awaited: bool, scope: str = "") -> EventEnvelope:
        """Caused by the fact itself: the reaction is in no log."""
        envelope = super().child(name, raw, awaited=awaited, scope=scope)
        envelope.cause = self.envelope.cause
        envelope.traceparent = self.envelope.traceparent
        return envelope

    def unit(self) -> Unit:
        """What was buffered."""
        unit = Unit(origin=self.envelope)
        gather(unit, self.context)
        return unit

    def write(self, unit: Unit, done: Written) -> None:
        """What it writes is caused by the fact too."""
        for entry in unit.entries:
            entry.cause = entry.cause or self.envelope.cause
        super().write(unit, done)
