"""What is left in the log of a row whose chunks and effects are in an archive.

A stub holds the row without them, and the envelope of each: positions, versions, ids and keys stay as they were. The
payload and its metadata are gone. It ends with two digests: its own, and behind that the one of the row, of which the
link of its commit was made; so the chain is followed over stubs as over rows::

    0xC1 | packed and deflated | digest of all else | digest of the row

No row begins with 0xC1, nor does anything that msgpack packs, and the last digest does not fit it: who reads rows
learns of a stub by that, and pays nothing where there is none.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.events import ArchiveCategory, Kind, Position
from ksi.store.chain import DIGEST, opened
from ksi.store.row import Line, Lines, Row, unpack

R = TypeVar("R", Row, Lines)
MARK = b"\xc1"
AWAY = b"\1"
"""Begins the payload of an event that is in an archive, before the archive's id: no JSON begins so."""
EFFECTS = "$effects"
ID = 8
"""Bytes of an archive's id."""


class Gone(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "place": "p",
        "stream": "s",
        "is_own_stream": "o",
        "version": "v",
        "name": "n",
        "kind": "k",
        "id": "i",
        "tags": "t",
        "schema_version": "y",
        "run": "r",
        "cause": "c",
        "subject": "u",
        "occurred_us": "w",
    },
):
    """The envelope of a line that left, at ``place`` among the lines of its row.

    Most are chunks, and one row holds few: so what follows from the row is left out. ``is_own_stream``: ``stream`` is
    the category only, its other part the text of the row's request. ``id`` None: derived. ``cause``: the row's request.
    """

    place: int
    version: int
    name: str
    stream: str = EFFECTS
    is_own_stream: bool = False
    kind: Kind = "chunk"
    id: bytes | None = None
    tags: frozenset[str] = frozenset()
    schema_version: int = 1
    run: str | None = None
    cause: bytes | UnsetType | None = UNSET
    subject: str | None = None
    occurred_us: int | None = None


class Stub(msgspec.Struct, array_like=True, frozen=True):
    """``row`` has the lines that stayed."""

    archive: bytes
    row: Row
    gone: tuple[Gone, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stub).decode
_COMMON = (
    b"effect:readeffect:observedeffect:completedeffect:requested$effects\xa1koutcome\xa1krequest"
    b"\x99\x96\x90\xc0\xc2\xc3\x90\x90\xc0\x92\xa0\xc4\x00\xa0\xa0\xa4main\xc4\x10\xc0\xc0\x00\xc0\x00\x00\xc0\xc0\xc0\x01\xa0\xc0"
    b"\xc2\x90\x90\xc0\x91\x86\xa1p\x00\xa1v\xcd\xa1n\xb1completion:create\xa1s\xaacompletion\xa1o\xc3\xa1t\x90"
)
"""What most stubs hold, so that it costs them nothing: a third of each. A part of the format."""


def _pack(stub: Stub) -> bytes:
    packer = zlib.compressobj(zlib.Z_BEST_COMPRESSION, wbits=-zlib.MAX_WBITS, zdict=_COMMON)
    return MARK + packer.compress(_encode(stub)) + packer.flush()


def _unpack(stored: bytes) -> Stub:
    packed = stored[len(MARK) : -2 * DIGEST]
    return _decode(zlib.decompressobj(-zlib.MAX_WBITS, _COMMON).decompress(packed))


def is_stub(stored: bytes) -> bool:
    return stored.startswith(MARK)


def leaves(line: Line) -> bool:
    """Whether an archive takes it: how an answer came about, not what became true."""
    return line.kind == "chunk" or line.stream == EFFECTS


def category(row: Row) -> ArchiveCategory | None:
    """What the row is in an archive; None where nothing of it leaves.

    One with both leaves as chunks: without those its run can not be repeated, so its effects are of no use either.
    """
    leaving = [line for line in row.lines if leaves(line)]
    if any(line.kind == "chunk" for line in leaving):
        return "chunks"
    return "effects" if leaving else None


# ── into a stub ──────────────────────────────────────────────────────────────────────────────────────────────────────
def stub_of(row: Row, stored: bytes, archive: bytes) -> bytes | None:
    """The stub of ``row``, which is ``stored`` so; None where it would not bring back the envelopes as they are."""
    request, derived = row.origin.event_id, _DerivedIds(row)
    is_derived = [derived.take(line.id) for line in row.lines]
    gone = tuple(
        _gone(line, place, request, is_derived=is_derived[place])
        for place, line in enumerate(row.lines)
        if leaves(line)
    )
    kept = replace(row, lines=tuple(line for line in row.lines if not leaves(line)), origin=_needed(row))
    stub = Stub(archive, kept, gone)
    if _lines(stub) != tuple(_emptied(line, archive) if leaves(line) else line for line in row.lines):
        return None
    return _sealed(_pack(stub), stored[-DIGEST:])


def _needed(row: Row) -> EventEnvelope:
    """Of a request that the row neither records nor closes, what its events say of it."""
    origin = row.origin
    if row.recorded or row.closing is not None:
        return origin
    return EventEnvelope(
        name="", raw=b"", principal="", source="", branch=origin.branch, id=origin.id, correlation=origin.correlation
    )


def _gone(line: Line, place: int, request: bytes, *, is_derived: bool) -> Gone:
    before, slash, last = line.stream.rpartition("/")
    is_own = bool(slash) and last == ids.text(request)
    return Gone(
        place=place,
        stream=before if is_own else line.stream,
        is_own_stream=is_own,
        version=line.version,
        name=line.name,
        kind=line.kind,
        id=None if is_derived else line.id,
        tags=line.tags,
        schema_version=line.schema_version,
        run=line.run,
        cause=UNSET if line.cause == request else line.cause,
        subject=line.subject,
        occurred_us=line.occurred_us,
    )


def _emptied(line: Line, archive: bytes) -> Line:
    return replace(line, raw=AWAY + archive, metadata={})


class _DerivedIds:
    """The ids that a row's lines have, one after the other, unless somebody gave one; see :mod:`ksi.store.build`."""

    def __init__(self, row: Row) -> None:
        self._bases = row.bases or (row.origin.event_id,)
        self._nth = 0

    @property
    def next(self) -> bytes:
        block = self._nth // ids.ENTRIES_MAX
        return ids.nth_of(self._bases[block], self._nth % ids.ENTRIES_MAX + 1) if block < len(self._bases) else b""

    def take(self, raw: bytes) -> bool:
        """Whether the next line's id, ``raw``, is derived."""
        is_derived = raw == self.next
        self._nth += is_derived
        return is_derived


def _sealed(packed: bytes, digest: bytes) -> bytes:
    return packed + _digest(packed + digest) + digest


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=DIGEST).digest()


# ── out of it ────────────────────────────────────────────────────────────────────────────────────────────────────────
def archive_of(stored: bytes) -> bytes:
    """The id of the archive that holds the row."""
    return _unpack(stored).archive


def _row(stored: bytes) -> Row:
    stub = _unpack(stored)
    return replace(stub.row, lines=_lines(stub))


def _lines(stub: Stub) -> tuple[Line, ...]:
    """All lines in order. What left says in place of its payload where it is."""
    row, gone = stub.row, {one.place: one for one in stub.gone}
    size = len(row.lines) + len(gone)
    first = row.last - (row.closing is not None) - len(row.emits) - size + 1
    kept, derived = iter(row.lines), _DerivedIds(row)
    found = []
    for place in range(size):
        line = _line(stub, gone[place], first + place, derived.next) if place in gone else next(kept)
        derived.take(line.id)
        found.append(line)
    return tuple(found)


def _line(stub: Stub, gone: Gone, position: int, derived: bytes) -> Line:
    origin = stub.row.origin
    return Line(
        position=Position(position),
        stream=f"{gone.stream}/{ids.text(origin.event_id)}" if gone.is_own_stream else gone.stream,
        version=gone.version,
        name=gone.name,
        raw=AWAY + stub.archive,
        id=derived if gone.id is None else gone.id,
        kind=gone.kind,
        tags=gone.tags,
        schema_version=gone.schema_version,
        run=gone.run,
        cause=origin.event_id if gone.cause is UNSET else gone.cause,
        subject=gone.subject,
        occurred_us=gone.occurred_us,
        recorded_us=stub.row.at,
        branch=origin.branch,
    )


# ── rows, whether they are stubs or not ──────────────────────────────────────────────────────────────────────────────
def read_row(stored: bytes) -> Row:
    """The row in a sealed body; its digest is not looked at."""
    return _row(stored) if is_stub(stored) else unpack(stored[:-DIGEST])


def checked_row(stored: bytes) -> Row | None:
    """The row in ``stored``; None where that is not what was written."""
    if not is_stub(stored):
        body = opened(stored)
        return None if body is None else unpack(body)
    packed, own, digest = stored[: -2 * DIGEST], stored[-2 * DIGEST : -DIGEST], stored[-DIGEST:]
    return _row(stored) if _digest(packed + digest) == own else None
