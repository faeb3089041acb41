"""Secondary keys on disk: written a generation at a time in sorted batches, read a block of positions at a time."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import apsw
import msgspec

from ksi.core.errors import LogDamagedError
from ksi.store.checked import read_rows
from ksi.store.query import INDEX
from ksi.store.row import Row, unpack, unpack_lines
from ksi.store.schema import MISREAD
from ksi.store.tail import R, Tail, last_version, linked

BLOCK = 512
"""Rows that one posting names at most."""
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[int]).decode


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def write_keys(connection: apsw.Connection, tail: Tail) -> None:
    """Enter the keys of a generation. In a transaction of the caller's."""
    postings = tail.postings()
    streams = _stream_ids(connection, [key[2:] for key in postings if key.startswith("s:")])
    names = [(key[2:],) for key in postings if key.startswith(("n:", "q:"))]
    connection.executemany("INSERT OR IGNORE INTO names VALUES (?)", sorted(names))
    lasts = tail.lasts()
    numbers: dict[int, Sequence[int]] = {}
    for key, places in postings.items():
        number = number_of(key, streams)
        # Two keys may have one number: run and cause of a row, or a hash.
        numbers[number] = sorted({*numbers[number], *places}) if number in numbers else places
    rows = [
        (number, at, posting)
        for number, places in sorted(numbers.items())
        for at, posting in _blocks([lasts[place] for place in places])
    ]
    connection.executemany("INSERT INTO keys VALUES (?, 0, ?, ?)", rows)


def write_all_keys(connection: apsw.Connection, upto: int) -> None:
    """Forget all keys and enter those of the rows up to ``upto``. In a transaction of the caller's."""
    connection.execute("DELETE FROM keys")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('index', ?)", (INDEX,))
    tail = Tail()
    for last, body in connection.execute("SELECT pos, body FROM log WHERE pos <= ? ORDER BY pos", (upto,)):
        tail.add(read_rows([(last, body)], unpack)[0], body)
        if tail.is_full:
            write_keys(connection, tail)
            tail = Tail()
    if len(tail):
        write_keys(connection, tail)


def _blocks(positions: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(positions), BLOCK):
        block = positions[start : start + BLOCK]
        yield block[0], pack_positions(block)


def pack_positions(positions: Sequence[int]) -> bytes:
    return _pack([positions[0], *(high - low for low, high in pairwise(positions))])


def unpack_positions(posting: bytes) -> list[int]:
    return list(accumulate(_unpack(posting)))


def _stream_ids(connection: apsw.Connection, streams: Sequence[str]) -> dict[str, int]:
    connection.executemany("INSERT OR IGNORE INTO streams(name) VALUES (?)", [(name,) for name in streams])
    found = {}
    for name in streams:
        found[name] = connection.execute("SELECT id FROM streams WHERE name = ?", (name,)).get
    return found


def number_of(key: str, streams: dict[str, int]) -> int:
    """The key as it is stored: id of the stream, time-ordered number of a run or cause, or a negative hash."""
    if key.startswith("s:"):
        return streams[key[2:]]
    raw = linked(key)
    if raw is not None and raw[6] >> 4 in (7, 8, 9):
        return int.from_bytes(raw[:8], "big") >> 1
    return -1 - (
        int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 1
    )


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Table:
    """Rows on disk up to ``flushed``, seen through one connection."""

    def __init__(self, connection: apsw.Connection, flushed: int) -> None:
        self._connection = connection
        self._flushed = flushed

    def rows(
        self,
        keys: Sequence[str] | None,
        after: int,
        upto: int,
        backwards: bool,
        count: int,
        unpack: Callable[[bytes], R],
    ) -> list[Row | R]:
        upto = min(upto, self._flushed)
        if keys is None:
            return self.scan(after, upto, backwards, count, unpack)
        found = {last for key in keys for last in self._positions(key, after, upto, backwards, count)}
        return [self.row(last, unpack) for last in sorted(found, reverse=backwards)[:count]]

    def scan(self, after: int, upto: int, backwards: bool, count: int, unpack: Callable[[bytes], R]) -> list[Row | R]:
        order = "DESC" if backwards else "ASC"
        query = f"SELECT pos, body FROM log WHERE pos > ? AND pos <= ? ORDER BY pos {order} LIMIT ?"  # noqa: S608  # no input
        return read_rows(self._all(query, (after, upto, count)), unpack, self._whole_before)

    def row(self, last: int, unpack: Callable[[bytes], R]) -> Row | R:
        rows = self._all("SELECT pos, body FROM log WHERE pos = ?", (last,))
        return read_rows(rows or [(last, None)], unpack, self._whole_before)[0]

    def _whole_before(self, last: int) -> int:
        return self._one("SELECT last FROM commits WHERE last < ? ORDER BY at DESC LIMIT 1", (last,)) or 0

    def _all(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except MISREAD as error:
            raise LogDamagedError(f"a part of it can not be read: {error}", position=0) from error

    def _one(self, query: str, values: tuple[Any, ...]) -> Any:
        """The first column of the first row; None where there is none."""
        rows = self._all(query, values)
        return rows[0][0] if rows else None

    def _positions(self, key: str, after: int, upto: int, backwards: bool, count: int) -> list[int]:
        """At most ``count`` rows that may have ``key``, the first in order."""
        number = self._number(key)
        found = [] if number is None else self._posted(number, after, upto, backwards, count)
        raw = linked(key)
        return found if raw is None else [*found, *(last for last in self.own(raw) if after < last <= upto)]

    def _number(self, key: str) -> int | None:
        return self.stream_id(key[2:]) if key.startswith("s:") else number_of(key, {})

    def stream_id(self, stream: str) -> int | None:
        name = stream.encode(errors="replace").decode()  # a lone surrogate is in no stored name, and no error here
        found: int | None = self._one("SELECT id FROM streams WHERE name = ?", (name,))
        return found

    def _posted(self, number: int, after: int, upto: int, backwards: bool, count: int) -> list[int]:
        found: list[int] = []
        for posting in self._blocks(number, after, upto, backwards):
            inside = [last for last in unpack_positions(posting) if after < last <= upto]
            found += reversed(inside) if backwards else inside
            if len(found) >= count:
                break
        return found

    def _blocks(self, number: int, after: int, upto: int, backwards: bool) -> Iterator[bytes]:
        """Postings that overlap the range, in order."""
        first = self._one(_BLOCK_BEFORE, (number, after))
        order = "DESC" if backwards else "ASC"
        query = f"SELECT posting FROM keys WHERE key = ? AND branch = 0 AND at BETWEEN ? AND ? ORDER BY at {order}"  # noqa: S608  # no input
        try:
            for (posting,) in self._connection.execute(query, (number, first or 0, upto)):
                yield posting
        except MISREAD as error:
            raise LogDamagedError(f"keys, by which events are found, can not be read: {error}", position=0) from error

    def own(self, raw: bytes) -> Iterator[int]:
        """The rows that recorded and closed a request."""
        for positions in self._all("SELECT pos, done FROM ids WHERE id = ?", (raw,)):
            for position in positions:
                last = None if position is None else self._end_of(position)
                if last is not None:
                    yield last

    def _end_of(self, position: int) -> int | None:
        query = "SELECT pos FROM log WHERE pos >= ? ORDER BY pos LIMIT 1"
        last: int | None = self._one(query, (position,))
        return last

    def row_at(self, position: int) -> Row | None:
        stored = self._all("SELECT pos, body FROM log WHERE pos >= ? ORDER BY pos LIMIT 1", (position,))
        row = next(iter(read_rows(stored, unpack, self._whole_before)), None)
        return row if row is not None and row.first <= position else None

    def names(self) -> Sequence[str]:
        return [name for (name,) in self._all("SELECT name FROM names")]

    def streams(self) -> Sequence[str]:
        return [name for (name,) in self._all("SELECT name FROM streams")]

    def last_version(self, stream: str) -> int:
        newest = self.rows(["s:" + stream], 0, self._flushed, True, 1, unpack_lines)
        return last_version(newest[0], stream) if newest else 0

    def _version_in(self, last: int, stream: str) -> int:
        """The version of the stream's last event in a row."""
        return last_version(self.row(last, unpack_lines), stream)

    def start_of(self, stream: str, version: int) -> int:
        """A position after which all of the stream's events from ``version`` on follow, and few others."""
        number = self._number("s:" + stream)
        start = None if number is None else self._block_of(number, stream, version)
        if start is None:
            return 0
        positions = unpack_positions(self._one(_POSTING, (number, start)))
        place = bisect_left(positions, version, key=lambda last: self._version_in(last, stream))
        return positions[place - 1]

    def _block_of(self, number: int, stream: str, version: int) -> int | None:
        """The last block whose first row is before ``version``: halve the positions until it is found."""
        found = None
        low, high = 0, self._flushed
        while low < high:
            middle = (low + high + 1) // 2
            at = self._one(_BLOCK_BEFORE, (number, middle))
            if at is not None and self._version_in(at, stream) >= version:
                high = at - 1
            else:
                low, found = middle, at
        return found


_BLOCK_BEFORE = "SELECT at FROM keys WHERE key = ? AND branch = 0 AND at <= ? ORDER BY at DESC LIMIT 1"
_POSTING = "SELECT posting FROM keys WHERE key = ? AND branch = 0 AND at = ?"
