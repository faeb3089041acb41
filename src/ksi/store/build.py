"""A unit, decided, as the row that will be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ksi.core import ids
from ksi.core.events import Position
from ksi.core.ports import Entry, Outcome, Unit
from ksi.store.row import Closing, Line, Request, Row, correlation_of, metadata_of, request_of

NO_CAUSE = b""
NO_RUN = ""
"""As ``cause`` and ``correlation`` of an entry: it has none, not even the origin's."""
Entered = list[tuple[bytes, int]]
"""Ids with their positions."""


def build(unit: Unit, head: Position, at: int, versions: Sequence[int]) -> Row:
    """The row of ``unit`` behind position ``head``; ``versions`` are those of its entries."""
    entries, outcome = unit.entries, unit.outcome
    before = len(unit.ancestors) + unit.request
    last = cast("Position", head + before + len(entries) + len(unit.emits) + (outcome is not None))
    origin = request_of(unit.origin, None if unit.request else b"")
    derived = len(entries) + (outcome is not None)
    for entry in entries:
        derived -= entry.event_id is not None
    bases = _bases(origin.id, last, derived, outcome is not None)
    return Row(
        last,
        at,
        bases,
        tuple([request_of(envelope) for envelope in unit.ancestors]) if unit.ancestors else (),
        origin,
        unit.request,
        tuple(_lines(unit, origin, bases, at, head + before, versions)) if entries else (),
        tuple([request_of(envelope) for envelope in unit.emits]) if unit.emits else (),
        None if outcome is None else _closing(outcome, derived - 1),
    )


def _bases(origin: bytes, last: int, derived: int, closes: bool) -> tuple[bytes, ...]:
    """What the ids of the unit's events are derived from; empty: from the origin's."""
    if not derived or (closes and derived <= ids.ENTRIES_MAX and ids.has_room(origin)):
        return ()
    return tuple(_base(origin, last, block) for block in range((derived + ids.ENTRIES_MAX - 1) // ids.ENTRIES_MAX))


def _base(origin: bytes, last: int, block: int) -> bytes:
    raw = ids.derived(origin, "row", last, block)
    return bytes([raw[0] & 0x07]) + raw[1:]  # room for the ordinals, also below a random UUIDv4


def _lines(
    unit: Unit, origin: Request, bases: tuple[bytes, ...], at: int, head: int, versions: Sequence[int]
) -> list[Line]:
    """The entries behind position ``head``; what they have in common is made once."""
    run, cause, metadata = origin.correlation, origin.id, metadata_of(origin)
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
                run=run if entry.cause is entry.correlation is None else _run_of(entry, origin),
                cause=cause if entry.cause is None else entry.cause or None,
                subject=entry.subject,
                occurred_us=entry.occurred_us,
                recorded_us=at,
                metadata={**metadata, **entry.metadata} if entry.metadata else metadata,
            )
        )
    return made


def _run_of(entry: Entry, origin: Request) -> str | None:
    """See :attr:`RecordedEvent.run`."""
    if entry.correlation is not None:
        return entry.correlation
    return origin.correlation if entry.cause is None else correlation_of(origin)


def _closing(outcome: Outcome, nth: int) -> Closing:
    return Closing(outcome.ok, outcome.data, nth, dict(outcome.metadata) if outcome.metadata else None)


def entered_ids(unit: Unit, row: Row, head: int) -> tuple[Entered, Entered]:
    """Ids of the row behind ``head`` that are entered in the index, and those of them that are open requests."""
    opened = [(request.id, place) for place, request in enumerate(row.ancestors, head + 1)] if row.ancestors else []
    entered: Entered = [(base, row.last) for base in row.bases] if row.bases else []
    if row.recorded:
        (opened if row.closing is None else entered).append((row.origin.id, head + len(row.ancestors) + 1))
    for entry, line in zip(unit.entries, row.lines, strict=True):
        if entry.event_id is not None:
            entered.append((entry.event_id, line.position))
    if row.emits:
        start = head + len(row.ancestors) + row.recorded + len(row.lines) + 1
        opened += [(request.id, place) for place, request in enumerate(row.emits, start)]
    return entered + opened if opened else entered, opened
