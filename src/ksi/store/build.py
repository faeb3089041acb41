"""A unit, decided, as the row that will be stored."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import cast

from msgspec.structs import replace

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.events import Position
from ksi.core.ports import Entry, Outcome, Unit
from ksi.store.row import Closing, Line, Row, metadata_of

NO_CAUSE = b""
NO_RUN = ""
Entered = tuple[tuple[bytes, int], ...]
_NONE: Entered = ()
"""As ``cause`` and ``correlation`` of an entry: it has none, not even the origin's."""


def build(unit: Unit, head: Position, at: int, versions: Sequence[int]) -> Row:
    """The row of ``unit`` behind position ``head``; ``versions`` are those of its entries."""
    entries, outcome, origin = unit.entries, unit.outcome, unit.origin
    before = len(unit.ancestors) + unit.request
    last = cast("Position", head + before + len(entries) + len(unit.emits) + (outcome is not None))
    _shorten(origin)
    derived = len(entries) + (outcome is not None)
    for entry in entries:
        derived -= entry.event_id is not None
    bases = _bases(origin.event_id, last, derived, outcome is not None)
    return Row(
        last,
        at,
        bases,
        _kept(unit.ancestors) if unit.ancestors else (),
        origin if unit.request else replace(origin, raw=b"", typed=None),
        unit.request,
        tuple(_lines(unit, bases, at, head + before, versions)) if entries else (),
        _kept(unit.emits) if unit.emits else (),
        None if outcome is None else _closing(outcome, derived - 1),
    )


def _shorten(request: EventEnvelope) -> None:
    """Of the root of a run nothing is said twice: the run's id is its own."""
    correlation = request.correlation
    if correlation is not None and request.cause is None and correlation == ids.text(request.event_id):
        request.correlation = None


def _kept(requests: Sequence[EventEnvelope]) -> tuple[EventEnvelope, ...]:
    """``requests`` as they are now: they go on while the row is in memory."""
    for request in requests:
        _shorten(request)
    return tuple([copy(request) for request in requests])


def _bases(origin: bytes, last: int, derived: int, closes: bool) -> tuple[bytes, ...]:
    """What the ids of the unit's events are derived from; empty: from the origin's."""
    if not derived or (closes and derived <= ids.ENTRIES_MAX and ids.has_room(origin)):
        return ()
    return tuple(_base(origin, last, block) for block in range((derived + ids.ENTRIES_MAX - 1) // ids.ENTRIES_MAX))


def _base(origin: bytes, last: int, block: int) -> bytes:
    raw = ids.derived(origin, "row", last, block)
    return bytes([raw[0] & 0x07]) + raw[1:]  # room for the ordinals, also below a random UUIDv4


def _lines(unit: Unit, bases: tuple[bytes, ...], at: int, head: int, versions: Sequence[int]) -> list[Line]:
    """The entries behind position ``head``; what they have in common is made once."""
    origin = unit.origin
    run, cause, metadata = origin.correlation, origin.event_id, metadata_of(origin)
    nth = 0
    made = []
    for entry, version in zip(unit.entries, versions, strict=True):
        head += 1
        event_id = entry.event_id
        if event_id is None:
            base = bases[nth // ids.ENTRIES_MAX] if bases else cause
            event_id = ids.nth_of(base, nth % ids.ENTRIES_MAX + 1)
            nth += 1
        made.append(
            Line(
                position=head,  # type: ignore[arg-type]  # a call of Position() costs what three fields do
                stream=entry.stream,
                version=version,
                name=entry.name,
                raw=entry.data,
                id=event_id,
                kind=entry.kind,
                tags=entry.tags,
                schema_version=entry.schema_version,
                run=run if entry.correlation is None and entry.cause is None else _run_of(entry, origin),
                cause=cause if entry.cause is None else entry.cause or None,
                subject=entry.subject or origin.subject,
                occurred_us=entry.occurred_us,
                recorded_us=at,
                branch=origin.branch,
                metadata={**metadata, **entry.metadata} if entry.metadata else metadata,
            )
        )
    return made


def _run_of(entry: Entry, origin: EventEnvelope) -> str | None:
    """See :attr:`RecordedEvent.run`. The origin is not changed by being asked: the row holds it as it is."""
    if entry.correlation is not None:
        return entry.correlation
    if entry.cause is None or entry.cause == origin.id:
        return origin.correlation
    return origin.correlation or ids.text(origin.event_id)


def _closing(outcome: Outcome, nth: int) -> Closing:
    return Closing(outcome.ok, outcome.data, nth, dict(outcome.metadata) if outcome.metadata else None)


def entered_ids(unit: Unit, row: Row, head: int, *, has_given: bool) -> tuple[Entered, Entered]:
    """Ids of the row behind ``head`` that are entered in the index, and those of them that are open requests.

    ``has_given``: an entry has an id of its own.
    """
    own: Entered = ((row.origin.event_id, head + len(row.ancestors) + 1),) if row.recorded else ()
    entered, opened = (own, _NONE) if row.closing is not None else (_NONE, own)
    if row.bases:
        entered += tuple([(base, row.last) for base in row.bases])
    if has_given:
        for entry, line in zip(unit.entries, row.lines, strict=True):
            if entry.event_id is not None:
                entered += ((entry.event_id, line.position),)
    if row.ancestors:
        opened = (*((request.event_id, place) for place, request in enumerate(row.ancestors, head + 1)), *opened)
    if row.emits:
        start = row.last - len(row.emits) - (row.closing is not None) + 1
        opened += tuple([(request.event_id, place) for place, request in enumerate(row.emits, start)])
    return entered + opened if opened else entered, opened
