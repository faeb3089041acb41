"""Rows as they lie in a database: see :mod:`ksi.store.bodies`."""

from __future__ import annotations

from collections.abc import Sequence

from ksi.store.bodies import ANY_ARCHIVED
from ksi.store.postgres_schema import Connection, meta, set_meta


class PostgresBodies:
    """Those of a log in PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def page(self, after: int, before: int, count: int) -> list[tuple[int, bytes]]:
        query = "SELECT last, body FROM ksi.log WHERE last > %s AND last < %s ORDER BY last LIMIT %s"
        return [(last, body) for last, body in self._connection.execute(query, (after, before, count), binary=True)]

    def body_at(self, last: int) -> bytes | None:
        query = "SELECT body FROM ksi.log WHERE last = %s"
        found = self._connection.execute(query, (last,), binary=True).fetchone()
        return None if found is None else found[0]

    def first_hash(self) -> bytes:
        query = "SELECT hash FROM ksi.commits ORDER BY at LIMIT 1"
        found = self._connection.execute(query, binary=True).fetchone()
        return b"" if found is None else found[0]

    def are_any_away(self) -> bool:
        return meta(self._connection, ANY_ARCHIVED) is not None

    def note_any_away(self) -> None:
        set_meta(self._connection, ANY_ARCHIVED, b"1")

    def put(self, rows: Sequence[tuple[bytes, int]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany("UPDATE ksi.log SET body = %s WHERE last = %s", rows)
