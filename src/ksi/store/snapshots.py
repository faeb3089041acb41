"""States of folds, kept so that the next question about the past need not begin at the first event.

They are never the truth: one that is not as it was written is passed over, and all of them may be dropped at any time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence

import apsw

from ksi.core.events import Position
from ksi.core.views import FoldKey, Snapshot
from ksi.store.schema import DAMAGE

_log = logging.getLogger("ksi.store")
_TABLE = """CREATE TABLE IF NOT EXISTS snapshots(fold TEXT, version INTEGER, branch TEXT, pos INTEGER,
  state BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (fold, version, branch, pos)) WITHOUT ROWID"""
_BEFORE = """SELECT pos, CAST(state AS BLOB), digest FROM snapshots
  WHERE fold = ? AND version = ? AND branch = ? AND pos <= ? ORDER BY pos DESC LIMIT 1"""
_ALL = "SELECT fold, version, branch, pos, CAST(state AS BLOB), digest FROM snapshots"
_EXISTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'snapshots'"
Job = Callable[[apsw.Connection], None]


class NoSnapshots:
    """Where none are kept: see :class:`ksi.core.views.Snapshots`."""

    def before(self, key: FoldKey, at: Position) -> Snapshot | None:
        return None

    def keep(self, key: FoldKey, made: Sequence[Snapshot]) -> None:
        """Nothing."""


class SqliteSnapshots:
    """Those of a log on SQLite. ``submit`` runs a job on the writing connection, later; it may fail."""

    def __init__(self, connection: apsw.Connection, submit: Callable[[Job], None]) -> None:
        self._connection = connection
        self._submit = submit
        self._closed = False
        self._exists = exists(connection)

    def before(self, key: FoldKey, at: Position) -> Snapshot | None:
        self._exists = self._exists or exists(self._connection)
        if not self._exists or self._closed:
            return None
        try:
            found = self._connection.execute(_BEFORE, (*key, at)).fetchone()
        except DAMAGE:
            found = None
        if found is None:
            return None
        position, state, digest = found
        if digest_of(key, position, state) != digest:
            _log.warning("the snapshot of %s @%d is not as it was written: it is passed over", key.fold, position)
            return None
        return Snapshot(Position(position), state)

    def keep(self, key: FoldKey, made: Sequence[Snapshot]) -> None:
        def write(connection: apsw.Connection) -> None:
            if not self._closed:
                connection.execute(_TABLE)
                rows = [(*key, one.position, one.state, digest_of(key, one.position, one.state)) for one in made]
                connection.executemany("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)", rows)

        self._submit(write)

    def close(self) -> None:
        """Keep nothing any more, also of what is on its way."""
        self._closed = True


def exists(connection: apsw.Connection) -> bool:
    return connection.execute(_EXISTS).get is not None


def drop_snapshots(connection: apsw.Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS snapshots")


def wrong_snapshots(connection: apsw.Connection, head: int) -> Iterator[str]:
    """Those that are not as they were written, a sentence each."""
    if not exists(connection):
        return
    for fold, version, branch, position, state, digest in connection.execute(_ALL):
        key = FoldKey(fold, version, branch)
        if digest_of(key, position, state) != digest:
            yield f"the snapshot of {fold} @{position} is not as it was written: it is passed over"
        elif position > head:
            yield f"the snapshot of {fold} is at @{position}, beyond the head @{head}"


def digest_of(key: FoldKey, position: int, state: bytes) -> bytes:
    return hashlib.blake2b(repr((*key, position)).encode() + state, digest_size=16).digest()
