"""Records of a view: changed ones in memory until they are written, recent ones too, in front of a table of SQLite.

The order of a scan is that of blobs (:mod:`ksi.store.order`), the same for the table's columns and the changed records.
A record has a checksum of its row behind its JSON, and the entry of a view one of itself: a row that is not as it was
written is not served, and the view is built again from the log.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import apsw
import msgspec

from ksi.core import canonical
from ksi.core.errors import UnavailableError
from ksi.core.views import View
from ksi.store.order import sort_key
from ksi.store.schema import MISREAD
from ksi.store.views import Key, Place, Span

RECENT_MAX = 8_192
"""Clean records in memory, for each view."""
CHECKSUM = 4
"""Bytes of a row's checksum, at the end of its data: against flipped bits, not against people."""


class BufferedShelf(ABC):
    """The visible records of one view: the changed and the recent ones in memory, in front of a table."""

    def __init__(self, view: View[Any], place_of: Place) -> None:
        self._place_of = place_of
        self._indexes = tuple(view.indexes)
        self._decode = msgspec.json.Decoder(view.record).decode
        self._changed: dict[Key, Any | None] = {}
        self._flushing: dict[Key, Any | None] = {}
        self._recent: dict[Key, Any] = {}
        self.rename(view.name)
        self.version = view.version
        self.shape = repr((tuple(view.key), sorted((name, tuple(fields)) for name, fields in view.indexes.items())))
        self.position = self._stored_position()
        self.on_damage: Callable[[str], None] = lambda name: None
        self.is_behind = not view.inline
        self.is_replaced = False
        self._flushing_at = 0
        self._new = self.position is None

    def rename(self, name: str) -> None:
        """Its table has this view's name now."""
        self.name = name

    # ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────
    @abstractmethod
    def _stored_position(self) -> int | None:
        """Where the table stands; None where there is none of this version."""

    @abstractmethod
    def _read(self, key: Key) -> Any | None: ...

    @abstractmethod
    def _stored(self, span: Span, changed: set[bytes], limit: int) -> list[tuple[bytes, Any]]:
        """Up to ``limit`` records of ``span`` with their places in it, without those at the places ``changed``."""

    # ── one record ───────────────────────────────────────────────────────────────────────────────────────────────────
    def get(self, key: Key) -> Any | None:
        for records in (self._changed, self._flushing, self._recent):
            if key in records:
                return records[key]
        record = None if self._new else self._read(key)
        if record is not None:
            self._remember(key, record)
        return record

    def put(self, key: Key, record: Any | None) -> None:
        self._changed[key] = record

    def _remember(self, key: Key, record: Any) -> None:
        self._recent[key] = record
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    # ── in order ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def scan(self, span: Span, limit: int) -> list[tuple[bytes, Any]]:
        changed = {**self._flushing, **self._changed}
        places = {sort_key(key) for key in changed}
        found = [
            (place, record)
            for record in changed.values()
            if record is not None and span.low <= (place := self._place_of(span.by, record)) < span.high
        ]
        if not self._new:
            found += self._stored(span, places, limit)
        return sorted(found, key=_place, reverse=span.backwards)[:limit]

    # ── to disk ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def changes(self) -> int:
        """Records that are not yet on disk."""
        return len(self._changed)

    @property
    def is_flushing(self) -> bool:
        return bool(self._flushing)

    def begin(self, head: int) -> None:
        """What is changed now will be written. It stands at ``head``; one that is behind has a position of its own."""
        assert not self._flushing
        self._flushing, self._changed = self._changed, {}
        self._flushing_at = (self.position or 0) if self.is_behind else head

    def take_over(self, held: BufferedShelf) -> None:
        """``held`` was this view's until now, and is being written: what the table holds meanwhile nobody knows."""
        if (held.version, held.shape, held.is_replaced) == (self.version, self.shape, False):
            self._changed, self.position = dict(held._flushing), held._flushing_at
        else:
            held.is_replaced = self._new = True
            self.position = None

    def written(self) -> None:
        """What was begun is on disk."""
        self._new = False
        for key, record in self._flushing.items():
            if record is None:
                self._recent.pop(key, None)
            else:
                self._remember(key, record)
        self._flushing = {}

    def failed(self) -> None:
        """What was begun is not on disk: it is still changed."""
        self._changed = {**self._flushing, **self._changed}
        self._flushing = {}


class SqliteShelf(BufferedShelf):
    """One in SQLite. Only :meth:`write` runs in another thread."""

    def __init__(self, connection: apsw.Connection, view: View[Any], place_of: Place) -> None:
        self._connection = connection
        super().__init__(view, place_of)

    def _stored_position(self) -> int | None:
        """Where the table stands; None where there is none of this version."""
        found = entry_of(self._connection, self.name)
        is_this = found is not None and (found.version, found.shape) == (self.version, self.shape)
        return found.position if found is not None and is_this else None

    def rename(self, name: str) -> None:
        super().rename(name)
        self.table = quoted(f"view:{name}")
        self._selected = ", ".join(["place", "data", *(quoted(f"by:{index}") for index in self._indexes)])

    def _read(self, key: Key) -> Any | None:
        query = f"SELECT {self._selected} FROM {self.table} WHERE place = ?"  # noqa: S608  # quoted names
        rows = self._rows(query, (sort_key(key),))
        return self._opened(rows[0]) if rows else None

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[bytes, ...]]:
        try:
            return list(self._connection.execute(query, values))
        except MISREAD:  # a flipped type of a value too
            raise self._damage() from None

    def _opened(self, row: tuple[bytes, ...]) -> Any:
        """The record of a row."""
        if not is_whole(row):
            raise self._damage()
        return self._decode(row[1][:-CHECKSUM])

    def _damage(self) -> UnavailableError:
        self.on_damage(self.name)
        return UnavailableError(f"the view {self.name}", "a record is not as it was written; it is built again")

    def _stored(self, span: Span, changed: set[bytes], limit: int) -> list[tuple[bytes, Any]]:
        column = "place" if span.by is None else quoted(f"by:{span.by}")
        order = "DESC" if span.backwards else "ASC"
        query = f"""SELECT {self._selected} FROM {self.table} WHERE {column} >= ? AND {column} < ?
            ORDER BY {column} {order} LIMIT ?"""  # noqa: S608  # quoted names
        rows = self._rows(query, (span.low, span.high, limit + len(changed)))
        number = 0 if span.by is None else 2 + self._indexes.index(span.by)
        return [(row[number], self._opened(row)) for row in rows if row[0] not in changed][:limit]

    def write(self, writer: apsw.Connection) -> None:
        """Write what :meth:`begin` took, in the caller's transaction."""
        if self.is_replaced:
            return
        if self._new:
            self._create(writer)
        rows = sorted(((sort_key(key), record) for key, record in self._flushing.items()), key=_place)
        marks = ", ".join("?" * (2 + len(self._indexes)))
        held = None if self._new else entry_of(writer, self.name)
        before = writer.total_changes()
        delete = f"DELETE FROM {self.table} WHERE place = ?"  # noqa: S608  # a quoted name
        writer.executemany(delete, [(place,) for place, _ in rows])
        records = (0 if held is None else held.records) + before - writer.total_changes()
        stored = list(self._stored_rows(rows))
        writer.executemany(f"INSERT INTO {self.table} VALUES ({marks})", stored)  # noqa: S608  # a quoted name
        entry = Entry(self.version, self.shape, self._flushing_at, records + len(stored))
        writer.execute("INSERT OR REPLACE INTO views VALUES (?, ?, ?, ?)", (self.name, *entry.stored()))

    def _stored_rows(self, rows: Sequence[tuple[bytes, Any]]) -> Iterator[tuple[bytes, ...]]:
        for place, record in rows:
            if record is not None:
                places = [self._place_of(index, record) for index in self._indexes]
                yield sealed_row(place, canonical.encode(record), places)

    def _create(self, writer: apsw.Connection) -> None:
        writer.execute(f"DROP TABLE IF EXISTS {self.table}")
        # Constraints, not indexes of their own: their names follow when the table is renamed.
        blobs = "".join(f", {quoted(f'by:{index}')} BLOB NOT NULL UNIQUE" for index in self._indexes)
        writer.execute(f"CREATE TABLE {self.table}(place BLOB PRIMARY KEY, data BLOB NOT NULL{blobs}) WITHOUT ROWID")


def sealed_row(place: bytes, data: bytes, places: Sequence[bytes]) -> tuple[bytes, ...]:
    """The row of a record: its place, its data with the checksum, its places by the indexes."""
    return place, data + crc32(b"".join([data, place, *places])).to_bytes(CHECKSUM, "big"), *places


def is_whole(row: Sequence[bytes]) -> bool:
    """Whether a row is as :func:`sealed_row` has made it."""
    if not all(isinstance(part, bytes) for part in row):  # their types may be flipped too
        return False
    place, data, *places = row
    body = data[:-CHECKSUM]
    return crc32(b"".join([body, place, *places])) == int.from_bytes(data[-CHECKSUM:], "big")


class Entry(NamedTuple):
    """What stands of a view in the table of all of them; ``records``: how many it has."""

    version: int
    shape: str
    position: int
    records: int

    def stored(self) -> tuple[int, str, int]:
        """Its columns. Behind the shape stand the number of records, and a checksum of all."""
        checksum = crc32(" ".join(map(str, self)).encode())
        return self.version, f"{self.shape} {self.records} {checksum:08x}", self.position


def entry_of(connection: apsw.Connection, name: str) -> Entry | None:
    """That of the view ``name``; None where there is none, or none as it was written."""
    columns = connection.execute("SELECT version, shape, pos FROM views WHERE name = ?", (name,)).get
    try:
        version, stored, position = columns
        shape, records, _ = stored.rsplit(" ", 2)
        entry = Entry(version, shape, position, int(records))
    except (TypeError, ValueError, AttributeError):  # there is none, or a column says another type
        return None
    return entry if entry.stored() == columns else None


def _place(item: tuple[bytes, Any]) -> bytes:
    return item[0]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
