"""Records of a view in PostgreSQL: a table of its own, ``ksi."view:NAME"``, which other programs may read.

Its records are JSON under ``data``; ``place`` and a column for each index sort as the view's key and indexes do.
The tables are unlogged (see :mod:`ksi.store.postgres_schema`): after a crash of the server they have no records and no
entry in ``ksi.views``, and where a table has no entry nothing is served or written: the view is built again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from psycopg import sql
from psycopg.errors import UndefinedTable

from ksi.core import canonical
from ksi.core.errors import UnavailableError
from ksi.core.views import View
from ksi.store.order import sort_key
from ksi.store.postgres_reading import Session
from ksi.store.postgres_schema import Connection
from ksi.store.shelf import BufferedShelf
from ksi.store.views import BESIDE, Key, Place, Span

NAME_BYTES_MAX = 63
"""PostgreSQL cuts longer names off, and says nothing."""


class PostgresShelf(BufferedShelf):
    """One in PostgreSQL. Only :meth:`write` runs in another thread."""

    def __init__(self, session: Session, view: View[Any], place_of: Place) -> None:
        self._session = session
        self._is_lost = False
        super().__init__(view, place_of)

    def rename(self, name: str) -> None:
        super().rename(name)
        self._name = table_of(name)
        self._table = self._name.as_string(None)

    def _stored_position(self) -> int | None:
        rows = self._session.rows(_ENTRY, (self.name, self._table))
        return rows[0][2] if rows and rows[0][:2] == (self.version, self.shape) else None

    def _read(self, key: Key) -> Any | None:
        ((data,),) = self._rows(self._query(_ONE), (sort_key(key), self.name))
        return None if data is None else self._decode(data)

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One of nulls where none fits."""
        try:
            rows = self._session.rows(query, values)
        except UnavailableError as error:
            if not isinstance(error.__cause__, UndefinedTable):
                raise
            rows = []
        if not rows:
            self.on_damage(self.name)
            raise UnavailableError(f"the view {self.name}", "the server has lost its records; it is built again")
        return rows

    def _query(self, text: str, *columns: str) -> str:
        return sql.SQL(text).format(self._name, *map(sql.Identifier, columns)).as_string(None)

    def _stored(self, span: Span, changed: set[bytes], limit: int) -> list[tuple[bytes, Any]]:
        column = "place" if span.by is None else _short(f"by:{span.by}")
        query = self._query(_SCAN.replace("ASC", "DESC") if span.backwards else _SCAN, column)
        rows = self._rows(query, (span.low, span.high, limit + len(changed), self.name))
        found = [(place, key, data) for place, key, data in rows if place is not None and key not in changed]
        return [(place, self._decode(data)) for place, _, data in found[:limit]]

    def write(self, writer: Connection) -> None:
        """Write what :meth:`begin` took, in the caller's transaction."""
        if self.is_replaced:
            return
        if self._new:
            self._create(writer)
        elif writer.execute(_HOLDS, (self.name, self._table, self.version, self.shape)).fetchone() is None:
            self._is_lost = True
            return
        rows = [(sort_key(key), record) for key, record in self._flushing.items()]
        with writer.cursor() as cursor:
            cursor.executemany(self._query("DELETE FROM {} WHERE place = %s"), [(place,) for place, _ in rows])
            cursor.executemany(self._insert(), list(self._columns(rows)))
        writer.execute(_ENTER, (self.name, self.version, self.shape, self._flushing_at))

    def written(self) -> None:
        super().written()
        if self._is_lost:
            self._is_lost = False
            self.on_damage(self.name)

    def _insert(self) -> str:
        marks = sql.SQL(", ").join([sql.Placeholder()] * (2 + len(self._indexes)))
        return sql.SQL("INSERT INTO {} VALUES ({})").format(self._name, marks).as_string(None)

    def _columns(self, rows: Sequence[tuple[bytes, Any]]) -> Iterator[tuple[Any, ...]]:
        for place, record in rows:
            if record is not None:
                indexes = [self._place_of(index, record) for index in self._indexes]
                yield place, canonical.encode(record).decode(), *indexes

    def _create(self, writer: Connection) -> None:
        columns = [_short(f"by:{index}") for index in self._indexes]
        writer.execute(self._query("DROP TABLE IF EXISTS {}"))
        marks = "".join(", {} bytea NOT NULL UNIQUE" for _ in columns)
        table = f"CREATE UNLOGGED TABLE {{}}(place bytea PRIMARY KEY, data json NOT NULL{marks})"
        writer.execute(self._query(table, *columns))
        # Statistics hold samples of what is in a column, and are logged.
        quiet = ", ".join("ALTER {} SET STATISTICS 0" for _ in ("place", *columns))
        writer.execute(self._query(f"ALTER TABLE {{}} {quiet}", "place", *columns))


def table_of(view: str) -> sql.Identifier:
    """Where the records of ``view`` are."""
    return sql.Identifier("ksi", _short(f"view:{view}"))


def drop(view: str, connection: Connection) -> None:
    """Make that ``view`` has no records, and never had any."""
    connection.execute("DELETE FROM ksi.views WHERE name = %s", (view,))
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table_of(view)))


def drop_others(views: Collection[str], connection: Connection) -> None:
    """Drop the tables of all but ``views``: also of those on branches, and of views that nobody registers any more."""
    kept = [_short(f"view:{view}{beside}") for view in views for beside in ("", BESIDE)]
    for (table,) in connection.execute(_OTHERS, (kept,)).fetchall():
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("ksi", table)))
    names = [f"{view}{beside}" for view in views for beside in ("", BESIDE)]
    connection.execute("DELETE FROM ksi.views WHERE name <> ALL (%s)", (names,))


def put_in_place(view: str, shelf: PostgresShelf, connection: Connection) -> None:
    """Write what ``shelf`` has begun, and let its table be that of ``view``."""
    drop(view, connection)
    shelf.write(connection)
    renamed = sql.Identifier(_short(f"view:{view}"))
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(table_of(shelf.name), renamed))
    connection.execute("UPDATE ksi.views SET name = %s WHERE name = %s", (view, shelf.name))


def _short(name: str) -> str:
    """``name``, or what stands for it where it is too long."""
    if len(name.encode()) <= NAME_BYTES_MAX:
        return name
    return f"{name[:20]}~{hashlib.sha256(name.encode()).hexdigest()[:20]}"


# Beside the view's entry: without that there is no row at all.
_ONE = "SELECT data::text FROM ksi.views LEFT JOIN {} ON place = %s WHERE name = %s"
_SCAN = """
SELECT found.* FROM ksi.views LEFT JOIN LATERAL (
    SELECT {1}, place, data::text FROM {0} WHERE {1} >= %s AND {1} < %s ORDER BY {1} ASC LIMIT %s
) found ON true WHERE name = %s
"""
_ENTRY = "SELECT version, shape, pos FROM ksi.views WHERE name = %s AND to_regclass(%s) IS NOT NULL"
_HOLDS = f"{_ENTRY} AND version = %s AND shape = %s"
_OTHERS = """
SELECT relname FROM pg_class WHERE relnamespace = 'ksi'::regnamespace AND relkind = 'r' AND relname LIKE 'view:%%'
AND relname <> ALL (%s)
"""
_ENTER = """
INSERT INTO ksi.views VALUES (%s, %s, %s, %s) ON CONFLICT (name)
DO UPDATE SET version = excluded.version, shape = excluded.shape, pos = excluded.pos
"""
