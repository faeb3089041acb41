"""A request under way: what it is, who asked for it, what it asks for itself and what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ksi.core import ids
from ksi.core.envelope import EventEnvelope, path_of
from ksi.core.errors import ConflictError, KSIError
from ksi.core.ports import Known
from ksi.core.tracing import Measured
from ksi.core.views import View
from ksi.kernel.context import EventContext
from ksi.kernel.door import Done, Session
from ksi.kernel.reads import Reads, RecordingReader

if TYPE_CHECKING:
    from ksi.kernel.joining import Joined
    from ksi.kernel.rerun import History
    from ksi.kernel.router import Router
    from ksi.kernel.table import Row


class Request:
    """The state of one request. What most of them never change stands in the class: making one is cheap then."""

    above: Request | None = None
    """The one that waits for its end, for the detection of circles."""
    began = False
    is_parked = False
    answered = False
    cancelled = False
    committing = False
    """Its end is on its way to disk: nothing can change it any more."""
    ended = False
    """The handler has really ended."""
    opened = False
    """Its own row is on disk, or on its way there."""
    history: History | None = None
    """Of a rerun: what the log tells of its earlier life."""
    held = 0
    """Locks that it holds, of :attr:`locks`."""
    locks: Sequence[tuple[str, int]] = ()
    contexts: Sequence[EventContext] = ()
    joined: Sequence[Joined] = ()
    given: tuple[bytes | None, KSIError | None] = (None, None)
    """The answer, once it is known."""
    reads: Reads | None = None
    entered_at = 0.0
    """When it came in, on the clock of :func:`time.perf_counter`."""
    measured: Measured | None = None
    """Where somebody wants its spans."""
    _ordinals: dict[str, int] | None = None

    def __init__(
        self,
        router: Router,
        row: Row,
        envelope: EventEnvelope,
        session: Session,
        payload: Any,
        done: Done,
        token: Any,
        parent: Request | None = None,
    ) -> None:
        self.router = router
        self.row = row
        self.envelope = envelope
        self.session = session
        self.payload = payload
        self.done = done
        self.token = token
        self.parent = parent
        if parent is not None:
            self.above = parent

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

    @property
    def is_rerun(self) -> bool:
        """Whether what it requests may be in the log already."""
        return self.history is not None

    def matches(self, known: Known | EventEnvelope) -> bool:
        """Whether ``known`` asks for the same."""
        return same_content(self.envelope, known if isinstance(known, EventEnvelope) else known.request)

    def is_below(self, other: Request) -> bool:
        """Whether it is ``other``, or was requested by it or by what it requested."""
        each: Request | None = self
        while each is not None and each is not other:
            each = each.parent
        return each is other

    def child(self, name: str, raw: bytes, *, awaited: bool, scope: str = "") -> EventEnvelope:
        """The envelope of a request made here. Its id comes out of this one's id, its causal path and its ordinal.

        ``scope`` is the handler that makes it, where there are several.
        """
        if self._ordinals is None:
            self._ordinals = {}
        step = f"{name}{'#' if awaited else '!'}"
        place = f"[{scope}]/{step}" if scope else step
        ordinal = self._ordinals[place] = self._ordinals.get(place, 0) + 1
        above = self.envelope
        envelope = EventEnvelope(
            name=name,
            raw=raw,
            source=f"plugin:{self.owner}",
            id=ids.derived(above.event_id, place, ordinal),
            time_us=self.router.clock.time_us(),
            priority=above.priority,
            path=f"{path_of(above, scope)}/{step}{ordinal}",
        )
        return envelope.caused_by(above)

    def view(self, view: type[View[Any]]) -> Any:
        """Its reader, which notes what is read where that is recorded."""
        journal, branch = self.router.journal, self.envelope.branch
        reader = journal.view(view, branch=branch)
        recorder = self.read_recorder()
        if recorder is None:
            return reader
        return RecordingReader(reader, view.name, view.record, recorder, partial(journal.head, branch=branch))

    def read_recorder(self) -> Reads | None:
        """Where reads are noted: a recorded request's own list, or for a query the list of its own that ends there."""
        if self.reads is None and (self.is_recorded or self.parent is not None):
            recorded = None if self.history is None else self.history.recorded
            self.reads = Reads(with_values=self.row.is_before, recorded=recorded)
        return self.reads


def same_content(one: EventEnvelope, other: EventEnvelope) -> bool:
    """Name, principal, branch and data are the same; trace, deadline and priority do not count."""
    return (one.name, one.principal, one.branch) == (other.name, other.principal, other.branch) and (
        one.raw == other.raw or one.data == other.data
    )


def conflicting(envelope: EventEnvelope) -> ConflictError:
    event_id = ids.text(envelope.event_id)
    return ConflictError(f"event id {event_id} was used before with other content", event_id=event_id)
