"""Records of a view in SQLite: changed ones in memory until they are written, recent ones too, in front of a table.

The order of a scan is that of blobs (:mod:`ksi.store.order`), the same for the table's columns and the changed records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import msgspec

from ksi.core import canonical
from ksi.core.views import View
from ksi.store.order import sort_key
from ksi.store.views import Key, Place, Span

RECENT_MAX = 8_192
"""Clean records in memory, for each view."""


class SqliteShelf:
    """The visible records of one view. Only :meth:`write` runs in another thread."""

    def __init__(self, connection: apsw.Connection, view: View[Any], place_of: Place) -> None:
        self._connection = connection
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
        self._is_inline = view.inline
        self._flushing_at = 0
        self._new = self.position is None

    def _stored_position(self) -> int | None:
        """Where the table stands; None where there is none of this version."""
        found = self._connection.execute("SELECT version, shape, pos FROM views WHERE name = ?", (self.name,)).get
        return found[2] if found is not None and found[:2] == (self.version, self.shape) else None

    def rename(self, name: str) -> None:
        """Its table has this view's name now."""
        self.name = name
        self.table = quoted(f"view:{name}")

    # ── one record ───────────────────────────────────────────────────────────────────────────────────────────────────
    def get(self, key: Key) -> Any | None:
        for records in (self._changed, self._flushing, self._recent):
            if key in records:
                return records[key]
        record = self._read(key)
        if record is not None:
            self._remember(key, record)
        return record

    def _read(self, key: Key) -> Any | None:
        if self._new:
            return None
        query = f"SELECT data FROM {self.table} WHERE place = ?"  # noqa: S608  # a quoted name
        data = self._connection.execute(query, (sort_key(key),)).get
        return None if data is None else self._decode(data)

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

    def _stored(self, span: Span, changed: set[bytes], limit: int) -> list[tuple[bytes, Any]]:
        column = "place" if span.by is None else quoted(f"by:{span.by}")
        order = "DESC" if span.backwards else "ASC"
        query = f"""SELECT {column}, place, data FROM {self.table} WHERE {column} >= ? AND {column} < ?
            ORDER BY {column} {order} LIMIT ?"""  # noqa: S608  # quoted names
        rows = self._connection.execute(query, (span.low, span.high, limit + len(changed)))
        return [(place, self._decode(data)) for place, key, data in rows if key not in changed][:limit]

    # ── to disk ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def changes(self) -> int:
        """Records that are not yet on disk."""
        return len(self._changed)

    def begin(self) -> None:
        """What is changed now will be written."""
        assert not self._flushing
        self._flushing, self._changed = self._changed, {}
        self._flushing_at = self.position or 0

    def stands_at(self, head: int) -> int:
        """Where the records are that :meth:`begin` took: one that is folded behind has a position of its own."""
        return head if self._is_inline else self._flushing_at

    def write(self, writer: apsw.Connection, position: int) -> None:
        """Write what :meth:`begin` took, in the caller's transaction."""
        if self._new:
            self._create(writer)
        rows = sorted(((sort_key(key), record) for key, record in self._flushing.items()), key=_place)
        marks = ", ".join("?" * (2 + len(self._indexes)))
        insert = f"INSERT OR REPLACE INTO {self.table} VALUES ({marks})"  # noqa: S608  # a quoted name
        writer.executemany(insert, self._columns(rows))
        gone = [(place,) for place, record in rows if record is None]
        writer.executemany(f"DELETE FROM {self.table} WHERE place = ?", gone)  # noqa: S608  # a quoted name
        entry = (self.name, self.version, self.shape, position)
        writer.execute("INSERT OR REPLACE INTO views VALUES (?, ?, ?, ?)", entry)

    def _columns(self, rows: Sequence[tuple[bytes, Any]]) -> Iterator[tuple[bytes, ...]]:
        for place, record in rows:
            if record is not None:
                yield place, canonical.encode(record), *(self._place_of(index, record) for index in self._indexes)

    def _create(self, writer: apsw.Connection) -> None:
        writer.execute(f"DROP TABLE IF EXISTS {self.table}")
        # Constraints, not indexes of their own: their names follow when the table is renamed.
        blobs = "".join(f", {quoted(f'by:{index}')} BLOB NOT NULL UNIQUE" for index in self._indexes)
        writer.execute(f"CREATE TABLE {self.table}(place BLOB PRIMARY KEY, data BLOB NOT NULL{blobs}) WITHOUT ROWID")

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


def _place(item: tuple[bytes, Any]) -> bytes:
    return item[0]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
