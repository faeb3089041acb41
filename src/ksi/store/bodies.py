"""Rows as they lie in a log, for who moves them out of it and back: through one connection, in whatever thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import apsw

ANY_ARCHIVED = "archived"
"""In the table ``meta`` once a row has left: readers then look for stubs."""


class Bodies(Protocol):
    """What a backend says. Those that change something are called in a transaction of the writer's."""

    def page(self, after: int, before: int, count: int) -> list[tuple[int, bytes]]:
        """Rows between two positions, in order, each with its own."""

    def body_at(self, last: int) -> bytes | None: ...
    def first_hash(self) -> bytes:
        """That of the first commit: it says which log this is."""

    def are_any_away(self) -> bool: ...
    def note_any_away(self) -> None: ...
    def put(self, rows: Sequence[tuple[bytes, int]]) -> None:
        """Let these stand at their positions, in place of what does."""


class SqliteBodies:
    """Those of a log on SQLite."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def page(self, after: int, before: int, count: int) -> list[tuple[int, bytes]]:
        query = "SELECT pos, body FROM log WHERE pos > ? AND pos < ? ORDER BY pos LIMIT ?"
        return list(self._connection.execute(query, (after, before, count)))

    def body_at(self, last: int) -> bytes | None:
        found: bytes | None = self._connection.execute("SELECT body FROM log WHERE pos = ?", (last,)).get
        return found

    def first_hash(self) -> bytes:
        return self._connection.execute("SELECT hash FROM commits ORDER BY at LIMIT 1").get or b""

    def are_any_away(self) -> bool:
        return bool(self._connection.execute("SELECT value FROM meta WHERE key = ?", (ANY_ARCHIVED,)).get)

    def note_any_away(self) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, 1)", (ANY_ARCHIVED,))

    def put(self, rows: Sequence[tuple[bytes, int]]) -> None:
        self._connection.executemany("UPDATE log SET body = ? WHERE pos = ?", rows)
