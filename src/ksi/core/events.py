"""Values of the log: what is appended, what is read, how one asks for it.

Naming: append / read / subscribe, tags, ``fail_if_events_match`` + ``after`` → Dynamic Consistency Boundary
(dcb.events); ANY / NO_STREAM / STREAM_EXISTS → KurrentDB; correlation and causation ids → message-db.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Literal, NewType, TypeVar
from uuid import UUID

import msgspec

from ksi.core import canonical, ids
from ksi.core.blobs import Mirrored
from ksi.core.clock import utc

Position = NewType("Position", int)
"""Place in the log: global, ≥ 1, increasing in visible order; gaps allowed, never reused. Written ``@1234``."""

Kind = Literal["fact", "request", "outcome", "chunk"]
Durable = Literal["memory", "process", "disk", "replicated"]
Backend = Literal["memory", "sqlite", "postgresql"]
T = TypeVar("T")
MAIN = "main"
ROOT = "root"
"""Tag of the requests that nothing caused: they began a run, or go on with one."""
FAILED = "failed"
"""Tag of the outcomes that are errors."""
ARCHIVED = "archived"
"""In the metadata of an event whose payload is in an archive, and was not asked for: the archive's file."""
ERASED = "erased"
"""In the metadata of an event whose payload was erased; its data is None."""


class StreamState(Enum):
    """What a stream must be before an append, where no number is known."""

    ANY = "any"
    NO_STREAM = "no_stream"
    STREAM_EXISTS = "stream_exists"


ANY, NO_STREAM, STREAM_EXISTS = StreamState.ANY, StreamState.NO_STREAM, StreamState.STREAM_EXISTS
ExpectedVersion = int | StreamState
"""An int is the version of the last event that the caller saw; the first event has version 1; 0 means no stream."""


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact to append. ``data`` as bytes must be canonical JSON already."""

    name: str
    data: Mapping[str, Any] | bytes
    event_id: UUID | None = None
    tags: frozenset[str] = frozenset()
    schema_version: int = 1
    correlation_id: str | None = None
    causation_id: UUID | None = None
    subject: str | None = None
    occurred_at: datetime | None = None
    metadata: Mapping[str, Any] = {}


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the log holds it. ``raw`` is its canonical JSON, ``data`` the same decoded (when asked for).

    Ids and times stand here as they are stored, 16 bytes and microseconds since 1970; as objects when asked for. No
    part of it can lead back to it, so the collector of garbage need not look at it: that is a third of a replay.
    """

    position: Position
    stream: str
    version: int
    name: str
    raw: bytes
    id: bytes
    kind: Kind = "fact"
    tags: frozenset[str] = frozenset()
    schema_version: int = 1
    run: str | None = None
    """None: the run that its cause began. Empty: it belongs to none."""
    cause: bytes | None = None
    subject: str | None = None
    occurred_us: int | None = None
    recorded_us: int
    branch: str = MAIN
    metadata: Mapping[str, Any] = {}

    @property
    def event_id(self) -> UUID:
        return UUID(bytes=self.id)

    @property
    def causation_id(self) -> UUID | None:
        """What was handled when it was recorded."""
        return None if self.cause is None else UUID(bytes=self.cause)

    @property
    def correlation_id(self) -> str | None:
        """The run that it belongs to."""
        if self.run is None:
            return None if self.cause is None else ids.text(self.cause)
        return self.run or None

    @property
    def occurred_at(self) -> datetime | None:
        """Domain time, where it was given."""
        return None if self.occurred_us is None else utc(self.occurred_us)

    @property
    def recorded_at(self) -> datetime:
        """The log's own time; it never goes back from one position to the next."""
        return utc(self.recorded_us)

    @property
    def is_erased(self) -> bool:
        """Only the envelope is left: folds, views and observers pass it over."""
        return ERASED in self.metadata

    @property
    def is_archived(self) -> bool:
        """Only the envelope is here; ``data`` is None."""
        return ARCHIVED in self.metadata

    @property
    def data(self) -> Any:
        """Builtins from ``raw``; not to be changed."""
        global _newest  # a cache of one: who asks for a field of an event asks for the next one soon
        raw, data = _newest
        if raw is not self.raw:
            data = canonical.decode(self.raw)
            _newest = (self.raw, data)
        return data

    def into(self, kind: type[T]) -> T:
        """``raw`` as a struct of ``kind``; unknown fields of later schemas are passed over."""
        return _decoder(kind).decode(self.raw)

    @property
    def address(self) -> str:
        """Where to go on reading after it: ``stream@version``."""
        return f"{self.stream}@{self.version}"


_newest: tuple[bytes, Any] = (b"null", None)


class Filter(msgspec.Struct, frozen=True):
    """Names OR, tags AND, all fields AND. Globs as in :mod:`ksi.core.patterns`."""

    names: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    streams: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("fact",)
    correlation_id: str | None = None
    causation_id: UUID | None = None
    recorded_from: datetime | None = None
    recorded_to: datetime | None = None


Query = Sequence[Filter]
"""OR of filters; an empty one means all facts."""


class AppendCondition(msgspec.Struct, frozen=True):
    """The append fails where an event after ``after`` (None: anywhere) matches."""

    fail_if_events_match: Query
    after: Position | None = None


class StreamAppend(msgspec.Struct, frozen=True):
    """Events for one stream, as a part of an atomic append."""

    stream: str
    events: Sequence[NewEvent]
    expected_version: ExpectedVersion = ANY


class Appended(msgspec.Struct, frozen=True):
    """Positions and versions, one per event, in order; ``durable`` says what an OK means here."""

    positions: tuple[Position, ...]
    versions: tuple[int, ...]
    deduplicated: bool
    durable: Durable


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream with its last version and the position of its last event."""

    name: str
    version: int
    position: Position


class Lag(msgspec.Struct, frozen=True):
    """How far a subscriber is behind the head: positions, and the age of the first event that it has not done."""

    events: int
    seconds: float


class ParkedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a subscriber could not do. It was put aside with its cause, and those behind it went on."""

    subscriber: str
    position: Position
    event_id: UUID
    name: str
    stream: str
    reason: str
    parked_at: datetime
    is_retried: bool = False
    """Asked for again, and not done yet."""


class Backup(msgspec.Struct, frozen=True):
    """A copy of the log in one file: all events up to ``position``. ``keys``: that of the keys of subjects.

    ``blobs``: what is in the folder of large payloads; null where none was given, and the copy goes without them.
    """

    path: str
    position: Position
    bytes: int
    sha256: str
    keys: str | None = None
    blobs: Mirrored | None = None


class Erased(msgspec.Struct, frozen=True):
    """``events`` of ``subject`` can not be read any more, and ``views`` were built again without them.

    So many ``blobs`` of it were removed. ``damaged`` are files of damaged logs that were put aside, which may show it
    still: they were from before.
    """

    subject: str
    events: int
    views: Sequence[str]
    blobs: int = 0
    damaged: Sequence[str] = ()


ArchiveCategory = Literal["chunks", "effects"]


class Archive(msgspec.Struct, frozen=True):
    """A file with the chunks and effects of closed runs up to ``before``; ``rows`` have left the log for it.

    ``rest``: all that could leave up to there has left; what did not belongs to a run that was still open.
    """

    path: str
    id: str
    before: Position
    rest: Position
    rows: int
    bytes: int
    sha256: str


class Attached(msgspec.Struct, frozen=True):
    """``rows`` of an archive are in the log again."""

    path: str
    id: str
    rows: int


class LogSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the log's file. ``requests`` with their outcomes; ``archived``: what is left of rows that have left.

    ``others``: indexes and read models, also of what is not copied from the WAL yet. ``free`` is used again.
    """

    chunks: int = 0
    effects: int = 0
    facts: int = 0
    requests: int = 0
    archived: int = 0
    others: int = 0
    free: int = 0
    is_estimate: bool = False


class BranchInfo(msgspec.Struct, frozen=True):
    """A branch; ``parent`` is None for main only. ``head`` is its last event, chunks of its own not counted."""

    name: str
    parent: str | None
    forked_at: Position | None
    head: Position | None


def fact(name: str, *, schema_version: int = 1) -> Callable[[type[T]], type[T]]:
    """Name the fact that a struct stands for: ``@fact("state:value_was_set")``, so that it can be appended as it is."""

    def mark(kind: type[T]) -> type[T]:
        kind.__fact_name__ = name  # type: ignore[attr-defined]  # read back by fact_name
        kind.__fact_version__ = schema_version  # type: ignore[attr-defined]  # the same
        return kind

    return mark


def fact_name(kind: type) -> tuple[str, int] | None:
    """Name and schema version given by :func:`fact`; None where there are none."""
    name = getattr(kind, "__fact_name__", None)
    return None if name is None else (name, kind.__fact_version__)  # type: ignore[attr-defined]  # set together


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder
