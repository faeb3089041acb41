"""Running a recorded request again: what the log tells of it, whether it may run, what it is served."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec

from ksi.core import canonical, ids
from ksi.core.errors import InterruptedRunError, KSIError, OutcomeUnknownError
from ksi.core.events import Filter, Position, Query, RecordedEvent
from ksi.kernel.effects import EFFECTS, REQUESTED, Recorded

if TYPE_CHECKING:
    from ksi.core.envelope import EventEnvelope
    from ksi.kernel.router import Router
    from ksi.kernel.table import Row

RERUNS_MAX = 2
RECOVERY, PARKED = "$recovery", "$parked"
IS_PARKED, WAS_RESUMED = "request:parked", "request:resumed"


class Said(NamedTuple):
    """A chunk of an earlier life: where it stands in the log, and what stands for its content."""

    position: Position
    digest: bytes


class History(msgspec.Struct):
    """What is recorded in the name of an open request.

    ``facts`` (by stream and name) are counted down and ``chunks`` taken out as it says them again.
    ``attempts`` counts its reruns after crashes, ``has_acted`` is whether it did anything that others may have seen.
    """

    attempts: int = 0
    facts: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    chunks: deque[Said] = msgspec.field(default_factory=deque)
    has_acted: bool = False
    is_parked: bool = False
    was_resumed: bool = False
    recorded: Recorded = msgspec.field(default_factory=Recorded)

    def note(self, event: RecordedEvent) -> None:
        """Take up one event that it caused."""
        if event.stream == RECOVERY:
            self.attempts += 1
        elif event.stream == PARKED:
            self.is_parked = event.name == IS_PARKED
            self.was_resumed = self.was_resumed or event.name == WAS_RESUMED
        elif event.stream == EFFECTS:
            self.recorded.note(event.name, event.data)
            self.has_acted = self.has_acted or event.name == REQUESTED
        else:
            self._note_own(event)

    def _note_own(self, event: RecordedEvent) -> None:
        match event.kind:
            case "chunk":
                self.chunks.append(Said(event.position, canonical.digest(event.raw)))
                self.recorded.note_chunk(event.raw)
            case "request":
                self.recorded.requested.add(event.event_id.bytes)
                self.has_acted = True
            case "fact":
                self.facts[event.stream, event.name] += 1
                self.has_acted = True


async def history_of(router: Router, request: EventEnvelope) -> History:
    history = History()
    async for event in router.journal.read_all(caused_by(router, request), branch=request.branch):
        history.note(event)
    return history


def end_without_run(row: Row, request: EventEnvelope, history: History) -> KSIError | None:
    """How an open request ends without running again; None: it runs."""
    on_crash = row.declaration.on_crash
    if on_crash == "interrupted" and (history.has_acted or row.is_stream):
        return InterruptedRunError(request.name)
    may_rerun = not row.is_before or on_crash == "rerun" or not history.has_acted
    if not may_rerun or history.attempts >= RERUNS_MAX:
        return OutcomeUnknownError(request.name)
    return None


def caused_by(router: Router, request: EventEnvelope) -> Query:
    """Query for all that was recorded in the name of ``request``, by keys: a log of years costs it nothing.

    Chunks have no key of their cause. Theirs is their stream.
    """
    row = router.table.get(request.name)
    category = request.name.partition(":")[0] if row is None else row.category
    cause, stream = UUID(bytes=request.event_id), f"{category}/{ids.text(request.event_id)}"
    return (
        Filter(causation_id=cause, kinds=("fact", "request", "outcome")),
        Filter(causation_id=cause, kinds=("chunk",), streams=(stream,)),
    )
