"""Rows in memory with their keys: the newest of the SQLite log, all of the log in memory.

Keys are built when a reader first needs them: a commit pays nothing for them. Readers in other threads may ask while
the loop adds rows; they say up to which position they want to see.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import chain
from threading import Lock
from typing import Protocol, TypeVar
from uuid import UUID

from ksi.core.events import MAIN
from ksi.store.chain import DIGEST
from ksi.store.query import keys_of, own_of
from ksi.store.row import Lines, Row, row_of
from ksi.store.sight import marked

R = TypeVar("R", Row, Lines)
ROWS_MAX = 16_384
BYTES_MAX = 8 * 1024 * 1024
"""Rows, and bytes of their bodies, of a generation: what is kept until its keys are written."""
NEWEST = 256
"""Rows that stay unpacked, for those who follow the log."""


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
        without the digest: one call for each row is a tenth of a replay.
        """

    def row_at(self, position: int) -> Row | None:
        """The row whose events include ``position``."""

    def names(self) -> Sequence[str]:
        """All names of facts and requests."""


class Tail:
    """Rows in order, packed but for the newest: objects by the ten thousand cost memory and the collector's time.

    Only the loop adds.
    """

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        self._lasts: list[int] = []
        self._newest: dict[int, Row] = {}
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
        place = len(self._lasts)
        self._newest[place] = row
        self._newest.pop(place - NEWEST, None)
        self._bodies.append(body)
        self._bytes += len(body)
        self._lasts.append(row.last)
        branch = row.origin.branch
        for line in row.lines:
            self.heads[line.stream if branch == MAIN else marked(line.stream, branch)] = line.version

    @property
    def is_full(self) -> bool:
        """Its keys should be written."""
        return len(self._lasts) >= ROWS_MAX or self._bytes >= BYTES_MAX

    def extend(self, other: Tail) -> None:
        """Add all rows of ``other``, which are behind these."""
        for place, body in enumerate(other._bodies):
            self.add(other._row(place), body)

    def _row(self, place: int) -> Row:
        return self._newest.get(place) or row_of(self._bodies[place])

    def lasts(self) -> list[int]:
        """Positions of the rows, by place."""
        return self._lasts

    def postings(self) -> dict[str, list[int]]:
        """Places of rows (0 is the first) by key, as of now. The caller may read it while nobody else asks for it."""
        with self._lock:
            for place in range(self._indexed, len(self._lasts)):
                row = self._row(place)
                for key in keys_of(row):
                    self._postings.setdefault(key, []).append(place)
                self._indexed = place + 1
            return self._postings

    def _own_postings(self) -> dict[bytes, list[int]]:
        """The same by the requests that rows record or close: only for readers, for the table has ``ids`` instead."""
        with self._lock:
            for place in range(self._own_indexed, len(self._lasts)):
                for raw in own_of(self._row(place)):
                    self._own.setdefault(raw, []).append(place)
                self._own_indexed = place + 1
            return self._own

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
        return [self._newest.get(place) or unpack(self._bodies[place][:-DIGEST]) for place in chosen]

    def _places(self, keys: Sequence[str], low: int, high: int) -> list[int]:
        postings = self.postings()
        parts = [_between(postings.get(key, []), low, high) for key in keys]
        requests = [raw for raw in map(linked, keys) if raw is not None]
        if requests:
            own = self._own_postings()
            parts += [_between(own.get(raw, []), low, high) for raw in requests]
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
