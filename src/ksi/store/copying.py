"""A log made of the commits of another: rows and links are taken over, all else is made anew from them."""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from ksi.store.adopt import adopt
from ksi.store.bodies import SqliteBodies
from ksi.store.chain import GENESIS, Link
from ksi.store.keys import write_all_keys
from ksi.store.opening import Commit
from ksi.store.stub import is_stub


class NewLog:
    """One on SQLite, in a transaction of the caller's. ``link``: the last commit that was taken."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._ids = _Ids(connection)
        self._open: dict[bytes, int] = {}
        self._any_away = False
        self.link: Link = GENESIS

    def take(self, commit: Commit) -> None:
        for row, body in zip(commit.rows, commit.bodies, strict=True):
            self._connection.execute("INSERT INTO log(pos, body, branch) VALUES (?, ?, 0)", (row.last, body))
            adopt(row, self._ids, self._open)
            self._any_away = self._any_away or is_stub(body)
        self._connection.execute("INSERT INTO commits VALUES (?, ?, ?)", commit.link)
        self.link = commit.link

    def write_keys(self) -> None:
        """Those of what was taken by now, which counts as verified."""
        write_all_keys(self._connection, self.link.last)
        known = [("flushed", self.link.last), ("verified", self.link.at)]
        self._connection.executemany("INSERT INTO meta VALUES (?, ?)", known)
        if self._any_away:
            SqliteBodies(self._connection).note_any_away()

    def write_checkpoints(self, checkpoints: Iterable[tuple[str, int]]) -> None:
        """Of subscribers, none of which stands behind what was taken."""
        rows = [(subscriber, min(position, self.link.last)) for subscriber, position in checkpoints]
        self._connection.executemany("INSERT INTO checkpoints VALUES (?, 0, ?)", rows)

    def write_open(self) -> None:
        """The requests that nothing of what was taken has closed."""
        self._connection.executemany("INSERT INTO open(id, pos) VALUES (?, ?)", list(self._open.items()))


class _Ids:
    """Enters ids in the table of a log that is being made."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add(self, raw: bytes, position: int) -> None:
        self._connection.execute("INSERT INTO ids(id, pos) VALUES (?, ?)", (raw, position))

    def close(self, raw: bytes, position: int) -> None:
        self._connection.execute("UPDATE ids SET done = ? WHERE id = ?", (position, raw))
