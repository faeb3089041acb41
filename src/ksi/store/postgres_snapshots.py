"""Snapshots of folds in a table of the database: see :mod:`ksi.store.snapshots`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from ksi.core.events import Position
from ksi.core.views import FoldKey, Snapshot
from ksi.store.postgres_reading import Session
from ksi.store.postgres_schema import Connection
from ksi.store.snapshots import digest_of

_log = logging.getLogger("ksi.store")
# Names of entities may hold any character.
# Unlogged and without statistics: nothing of a state is anywhere else.
_TABLE = """CREATE UNLOGGED TABLE IF NOT EXISTS ksi.snapshots(fold bytea, version bigint, branch bytea, pos bigint,
  state bytea NOT NULL, digest bytea NOT NULL, PRIMARY KEY (fold, version, branch, pos));
  ALTER TABLE ksi.snapshots ALTER state SET STATISTICS 0"""
_BEFORE = """SELECT pos, state, digest FROM ksi.snapshots
  WHERE fold = %s AND version = %s AND branch = %s AND pos <= %s ORDER BY pos DESC LIMIT 1"""
_KEEP = """INSERT INTO ksi.snapshots VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (fold, version, branch, pos)
  DO UPDATE SET state = excluded.state, digest = excluded.digest"""
_ALL = "SELECT fold, version, branch, pos, state, digest FROM ksi.snapshots"
_EXISTS = "SELECT to_regclass('ksi.snapshots') IS NOT NULL"
Job = Callable[[Connection], None]


class PostgresSnapshots:
    """Those of a log on PostgreSQL. ``submit`` runs a job on the writing connection, later; it may fail."""

    def __init__(self, session: Session, submit: Callable[[Job], None]) -> None:
        self._session = session
        self._submit = submit
        self._closed = False
        self._exists = False

    def before(self, key: FoldKey, at: Position) -> Snapshot | None:
        if self._closed:
            return None
        self._exists = self._exists or self._session.value(_EXISTS) is True
        found = self._session.rows(_BEFORE, (*_stored(key), at)) if self._exists else []
        if not found:
            return None
        position, state, digest = found[0]
        if digest_of(key, position, state) != digest:
            _log.warning("the snapshot of %s @%d is not as it was written: it is passed over", key.fold, position)
            return None
        return Snapshot(Position(position), state)

    def keep(self, key: FoldKey, made: Sequence[Snapshot]) -> None:
        rows = [(*_stored(key), one.position, one.state, digest_of(key, one.position, one.state)) for one in made]

        def write(connection: Connection) -> None:
            if self._closed:
                return
            if not exists(connection):
                connection.execute(_TABLE)
            with connection.cursor() as cursor:
                cursor.executemany(_KEEP, rows)

        self._submit(write)

    def close(self) -> None:
        """Keep nothing any more, also of what is on its way."""
        self._closed = True


def exists(connection: Connection) -> bool:
    return connection.execute(_EXISTS).fetchone() == (True,)


def drop_snapshots(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS ksi.snapshots")


def wrong_snapshots(connection: Connection, head: int) -> Iterator[str]:
    """Those that are not as they were written, a sentence each."""
    if not exists(connection):
        return
    for fold, version, branch, position, state, digest in connection.execute(_ALL, binary=True):
        key = FoldKey(fold.decode(), version, branch.decode())
        if digest_of(key, position, state) != digest:
            yield f"the snapshot of {key.fold} @{position} is not as it was written: it is passed over"
        elif position > head:
            yield f"the snapshot of {key.fold} is at @{position}, beyond the head @{head}"


def _stored(key: FoldKey) -> tuple[bytes, int, bytes]:
    return key.fold.encode(errors="replace"), key.version, key.branch.encode()
