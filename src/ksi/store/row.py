"""A row of the log: all that one unit says, self-contained; how it is packed, and the events that it stands for.

The events of a row have consecutive positions, the last of which is the row's own::

    ancestors … | the request itself, where recorded | lines (facts, chunks, effects) … | emitted requests … | outcome

Ids of lines and of the outcome are derived unless somebody gave one: the j-th of them is ``ids.nth_of(base, k)`` with
k = 1..31. The base of a row that closes its request is the request's id; every other row (and every further 31 events)
has a base of its own, which is entered in the index of ids like a request's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.events import FAILED, ROOT, Position, RecordedEvent
from ksi.core.ports import Outcome

REQUESTS = "$requests"
"""Stream of requests and outcomes. Their version is their position: a counter of their own would order nothing more."""


SEALED = b"\0"
"""Begins a payload that can not be read as it stands: no JSON begins so. See :mod:`ksi.store.vault`."""


class Line(RecordedEvent, array_like=True, frozen=True, kw_only=True):
    """A fact, chunk or effect. It is stored as the event that readers get: replay is one call of the decoder.

    So the order of :class:`RecordedEvent`'s fields is a part of the format; new ones go to its end, with a default.
    """


class Closing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The outcome of the origin. ``nth``: how many derived ids of the row come before its own."""

    ok: bool
    raw: bytes
    nth: int
    metadata: dict[str, Any] | None


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is packed into one body. ``last`` is the position of the last event, ``at`` microseconds since 1970."""

    last: Position
    at: int
    bases: tuple[bytes, ...]
    ancestors: tuple[EventEnvelope, ...]
    origin: EventEnvelope
    recorded: bool
    lines: tuple[Line, ...]
    emits: tuple[EventEnvelope, ...]
    closing: Closing | None

    @property
    def size(self) -> int:
        """How many events it stands for."""
        opened = len(self.ancestors) + len(self.emits) + self.recorded
        return opened + len(self.lines) + (self.closing is not None)

    @property
    def first(self) -> int:
        """Position of its first event."""
        return self.last - self.size + 1


class Lines(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row as those unpack it who want only what a default query can match: its facts, chunks and effects.

    The rest stays packed. Fields as in :class:`Row`.
    """

    last: Position
    at: int
    bases: msgspec.Raw
    ancestors: msgspec.Raw
    origin: msgspec.Raw
    recorded: bool
    lines: tuple[Line, ...]


pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Row).decode
unpack_lines = msgspec.msgpack.Decoder(Lines).decode


def outcome_of(row: Row) -> Outcome | None:
    """How the row's origin ended, where the row says so."""
    closing = row.closing
    return None if closing is None else Outcome(closing.ok, closing.raw, closing.metadata)


def requests_of(row: Row) -> Iterator[tuple[Position, EventEnvelope]]:
    """The requests that the row records, with their positions."""
    position = row.first
    opened = (*row.ancestors, row.origin) if row.recorded else row.ancestors
    for offset, request in enumerate(opened):
        yield Position(position + offset), request
    position += len(opened) + len(row.lines)
    for offset, request in enumerate(row.emits):
        yield Position(position + offset), request


# ── into events ──────────────────────────────────────────────────────────────────────────────────────────────────────
def events_of(row: Row) -> list[RecordedEvent]:
    """All events of the row, in position order."""
    position = row.first
    opened = (*row.ancestors, row.origin) if row.recorded else row.ancestors
    found = [request_event(row, request, place) for place, request in enumerate(opened, position)]
    found += row.lines
    found += [request_event(row, request, place) for place, request in enumerate(row.emits, position + len(found))]
    if row.closing is not None:
        found.append(_outcome_event(row, row.closing))
    return found


_ROOT, _FAILED, _NO_TAGS = frozenset({ROOT}), frozenset({FAILED}), frozenset[str]()


def request_event(row: Row, request: EventEnvelope, position: int) -> RecordedEvent:
    return RecordedEvent(
        position=Position(position),
        stream=REQUESTS,
        version=position,
        name=request.name,
        raw=request.raw,
        id=request.event_id,
        kind="request",
        tags=_ROOT if request.cause is None else _NO_TAGS,
        schema_version=request.schema_version,
        run=request.correlation_id,
        cause=request.cause,
        subject=request.subject,
        occurred_us=request.time_us or None,
        recorded_us=row.at,
        branch=request.branch,
        metadata=metadata_of(request),
    )


def _outcome_event(row: Row, closing: Closing) -> RecordedEvent:
    origin = row.origin
    return RecordedEvent(
        position=Position(row.last),
        stream=REQUESTS,
        version=row.last,
        name=origin.name,
        raw=closing.raw if closing.raw.startswith(SEALED) else outcome_json(closing.raw, ok=closing.ok),
        id=ids.nth_of(row.bases[-1] if row.bases else origin.event_id, closing.nth % ids.ENTRIES_MAX + 1),
        kind="outcome",
        tags=_NO_TAGS if closing.ok else _FAILED,
        schema_version=origin.schema_version,
        run=origin.correlation,
        cause=origin.event_id,
        subject=origin.subject,
        recorded_us=row.at,
        branch=origin.branch,
        metadata={**metadata_of(origin), **(closing.metadata or {})},
    )


def outcome_json(raw: bytes, *, ok: bool) -> bytes:
    """The payload of an outcome's event, with the answer's or the error's JSON in it."""
    return (b'{"data":%b,"ok":true}' if ok else b'{"error":%b,"ok":false}') % raw


def metadata_of(request: EventEnvelope) -> dict[str, Any]:
    """What is known of a request and its consequences beside their payloads; only what is set. Not to be changed."""
    if request.path or request.traceparent is not None or request.deadline_us is not None or request.priority:
        return _all_metadata_of(request)
    return _common_metadata(request.principal, request.source, request.rule, request.hops)


@lru_cache(maxsize=1024)
def _common_metadata(principal: str, source: str, rule: str | None, hops: int) -> dict[str, Any]:
    found: dict[str, Any] = {"principal": principal, "source": source} if principal else {}
    if rule is not None:
        found["rule"] = rule
    if hops:
        found["hops"] = hops
    return found


def _all_metadata_of(request: EventEnvelope) -> dict[str, Any]:
    found = {**_common_metadata(request.principal, request.source, request.rule, request.hops)}
    if request.traceparent is not None:
        found["traceparent"] = request.traceparent
    if request.path:
        found["path"] = request.path
    if request.deadline_us is not None:
        found["deadline_us"] = request.deadline_us
    if request.priority:
        found["priority"] = request.priority
    return found
