"""Rows in memory with their keys: the newest of the SQLite log, all of the log in memory.

Keys are built when a reader first needs them: a commit pays nothing for them. Readers in other threads may ask while
the loop adds rows; they say up to which position they want to see.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from threading import Lock
from typing import Protocol, TypeVar
from uuid import UUID

from ksi.core.events import MAIN
from ksi.store.checked import read_rows
from ksi.store.query import keys_of, own_of
from ksi.store.row import Lines, Row, unpack
from ksi.store.sight import marked

R = TypeVar("R", Row, Lines)
ROWS_MAX = 16_384
BYTES_MAX = 8 * 1024 * 1024
"""Rows, and bytes of their bodies, of a generation: what is kept until its keys are written."""
NEWEST, NEWEST_BYTES = 256, 4 * 1024 * 1024
"""Rows that stay unpacked, for those who follow the log: up to twice so many, and of large ones fewer."""


class RowSource(Protocol):
    """Where rows are found. It shows one state of the log; callers name the positions that they may see."""

    def rows(
        self,
        keys: Sequence[str] | None,
        after: int,
        upto: int,
        backwards: bool,
        count: int,
        unpack: Callable[[bytes], R],
    ) -> list[Row | R]:
        """At most ``count`` rows, in order, with one of ``keys`` (None: all) and ``after < last <= upto``.

        ``unpack``: that of :mod:`ksi.store.row`, or its ``unpack_lines``, which costs half of it. Each gets the body
        without the digest. Raises LogDamagedError where a row is not as it was written.
        """

    def row_at(self, position: int) -> Row | None:
        """The row whose events include ``position``."""

    def names(self) -> Sequence[str]:
        """All names of facts and requests."""


class Bodies(Protocol):
    """The rows of a tail, packed, where they lie on disk."""

    def row(self, last: int, unpack: Callable[[bytes], R]) -> Row | R: ...
    def scan(self, after: int, upto: int, backwards: bool, count: int, unpack: Callable[[bytes], R]) -> list[Row | R]:
        """Those with ``after < last <= upto``, in order."""

    def own(self, raw: bytes) -> Iterable[int]:
        """The rows that recorded and closed a request."""


class Tail:
    """Rows in order, packed but for the newest: objects by the ten thousand cost memory and the collector's time.

    Only the loop adds. ``stored``: where the rows are read that are not among the newest; their keys are noted before
    they leave memory. Without it they are kept here.
    """

    def __init__(self, stored: Callable[[], AbstractContextManager[Bodies]] | None = None) -> None:
        self._stored = stored
        self._bodies: list[bytes] = []
        self._lasts: list[int] = []
        self._newest: dict[int, Row] = {}
        self._newest_bytes = 0  #: of those that came since some were forgotten
        self._postings: dict[str, list[int]] = {}
        self._indexed = 0
        self._own: dict[bytes, list[int]] = {}
        self._own_indexed = 0
        self._bytes = 0
        self._lock = Lock()
        self.heads: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._lasts)

    def add(self, row: Row, body: bytes) -> None:
        """``body`` is the packed, sealed row."""
        self._newest[len(self._lasts)] = row
        self._newest_bytes += len(body)
        self._lasts.append(row.last)
        if self._stored is None:
            self._bodies.append(body)
            self._bytes += len(body)
        branch = row.origin.branch
        for line in row.lines:
            self.heads[line.stream if branch == MAIN else marked(line.stream, branch)] = line.version
        if len(self._newest) == 2 * NEWEST or (self._newest_bytes > NEWEST_BYTES and len(self._newest) > 1):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        count = len(self._newest) // 2
        upto = len(self._lasts) - len(self._newest) + count
        if self._stored is not None:
            self._note_keys(upto)
        for place in range(upto - count, upto):
            del self._newest[place]
        self._newest_bytes = 0

    @property
    def is_full(self) -> bool:
        """Its keys should be written."""
        return len(self._lasts) >= ROWS_MAX or self._bytes >= BYTES_MAX

    @property
    def unpacked_from(self) -> int:
        """All rows behind this position are in memory as objects."""
        oldest = next(iter(self._newest), 0)
        return self._lasts[oldest - 1] if oldest else 0

    def another(self) -> Tail:
        """An empty one of the same kind."""
        return Tail(self._stored)

    def extend(self, other: Tail) -> None:
        """Add all rows of ``other``, which are behind these. Nothing is read: the disk may be what has failed."""
        before, postings = len(self), self.postings()
        for key, places in other.postings().items():
            postings.setdefault(key, []).extend([before + place for place in places])
        self._lasts += other._lasts
        self._bodies += other._bodies
        self._bytes += other._bytes
        self._newest = {before + place: row for place, row in other._newest.items()}
        self._indexed = len(self)
        self.heads |= other.heads

    def _row(self, place: int) -> Row:
        return self._newest.get(place) or self._unpacked(place, unpack)

    def _unpacked(self, place: int, unpack: Callable[[bytes], R]) -> Row | R:
        if self._stored is None:
            return read_rows([(self._lasts[place], self._bodies[place])], unpack)[0]
        with self._stored() as bodies:
            return bodies.row(self._lasts[place], unpack)

    def lasts(self) -> list[int]:
        """Positions of the rows, by place."""
        return self._lasts

    def postings(self) -> dict[str, list[int]]:
        """Places of rows (0 is the first) by key, as of now. The caller may read it while nobody else asks for it."""
        self._note_keys(len(self._lasts))
        return self._postings

    def _note_keys(self, upto: int) -> None:
        with self._lock:
            for place in range(self._indexed, upto):
                for key in keys_of(self._row(place)):
                    self._postings.setdefault(key, []).append(place)
                self._indexed = place + 1

    def _own_places(self, raw: bytes) -> list[int]:
        """Places of the rows that record or close a request."""
        if self._stored is not None:
            with self._stored() as bodies:
                lasts = sorted({last for last in bodies.own(raw) if self._has(last)})
            return [bisect_left(self._lasts, last) for last in lasts]
        with self._lock:
            for place in range(self._own_indexed, len(self._lasts)):
                for own in own_of(self._row(place)):
                    self._own.setdefault(own, []).append(place)
                self._own_indexed = place + 1
            return self._own.get(raw, [])

    def _has(self, last: int) -> bool:
        return bool(self._lasts) and self._lasts[0] <= last <= self._lasts[-1]

    def rows(
        self,
        keys: Sequence[str] | None,
        after: int,
        upto: int,
        backwards: bool,
        count: int,
        unpack: Callable[[bytes], R],
    ) -> list[Row | R]:
        low, high = bisect_right(self._lasts, after), bisect_right(self._lasts, upto)
        places = range(low, high) if keys is None else self._places(keys, low, high)
        chosen = places[: -count - 1 : -1] if backwards else places[:count]
        if self._stored is not None and keys is None and not all(place in self._newest for place in chosen):
            first, last = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
            with self._stored() as bodies:
                return bodies.scan(self._lasts[first] - 1, self._lasts[last], backwards, len(chosen), unpack)
        return [self._newest.get(place) or self._unpacked(place, unpack) for place in chosen]

    def _places(self, keys: Sequence[str], low: int, high: int) -> list[int]:
        postings = self.postings()
        parts = [_between(postings.get(key, []), low, high) for key in keys]
        parts += [_between(self._own_places(raw), low, high) for key in keys if (raw := linked(key)) is not None]
        return parts[0] if len(parts) == 1 else sorted(set(chain.from_iterable(parts)))

    def row_at(self, position: int) -> Row | None:
        place = bisect_left(self._lasts, position)
        if place == len(self._lasts):
            return None
        row = self._row(place)
        return row if row.first <= position else None

    def names(self) -> Sequence[str]:
        return self._having("n:", "q:")

    def streams(self) -> Sequence[str]:
        return self._having("s:")

    def _having(self, *tags: str) -> list[str]:
        postings = self.postings()
        with self._lock:
            return [key[2:] for key in postings if key.startswith(tags)]

    def start_of(self, stream: str, version: int) -> int:
        """A position after which all of the stream's events from ``version`` on follow, and few others."""
        places = list(self.postings().get("s:" + stream, ()))
        place = bisect_left(places, version, key=lambda place: last_version(self._row(place), stream))
        return self._row(places[place]).first - 1 if place < len(places) else self._lasts[-1] if self._lasts else 0


def _between(places: list[int], low: int, high: int) -> list[int]:
    return places[bisect_left(places, low) : bisect_left(places, high)]


def linked(key: str) -> bytes | None:
    """The request that a key of a run or cause names."""
    if not key.startswith(("r:", "e:")):
        return None
    try:
        return UUID(key[2:]).bytes
    except ValueError:
        return None


def last_version(row: Row | Lines, stream: str) -> int:
    """The version of the stream's last event in ``row``; 0 where it has none."""
    return max((line.version for line in row.lines if line.stream == stream), default=0)
