"""The thread that writes: whole batches, keys and views, each in one transaction, on the one writing connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import apsw

from ksi.core.errors import LogDamagedError, UnavailableError
from ksi.store.chain import GENESIS, Link, Witness, next_link, witness_of
from ksi.store.decide import Decided, Moved
from ksi.store.keys import write_all_keys, write_keys
from ksi.store.schema import Durability, connect_writer
from ksi.store.shelf import SqliteShelf
from ksi.store.snapshots import drop_snapshots
from ksi.store.swap import drop_others
from ksi.store.tail import Tail
from ksi.store.vault import Vault

CHUNKS = (64, 16, 4, 1)
"""Rows of one INSERT: few different statements, so that each stays prepared."""
OVERWRITE_TIMEOUT_MS = 10_000
PAGES_MAX = 4_000
"""Pages of the WAL (4 KiB each) at which it is copied into the database."""


class Writer:
    """Owns the writing connection and the witness. Its jobs run one at a time, nearly all in the writer's lane."""

    def __init__(self, path: Path, durability: Durability, vfs: str | None, vault: Vault) -> None:
        self._path = path
        self._vault = vault
        self._durability: Durability = durability
        self._vfs = vfs
        self._lock = RLock()  # a view that is registered is flushed on the loop
        self.witness = Witness(witness_of(path))
        self._open()

    def _open(self) -> None:
        self.connection = connect_writer(self._path, self._durability, self._vfs)
        self.connection.set_wal_hook(self._note_pages)
        self._pages = 0
        self.link = self._stored_link()

    def _note_pages(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _stored_link(self) -> Link:
        found = self.connection.execute("SELECT at, last, hash FROM commits ORDER BY at DESC LIMIT 1").get
        return GENESIS if found is None else Link(*found)

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """IMMEDIATE: one that reads first can not be turned away later.

        Raises:
            UnavailableError: The disk does not take it. Nothing of it is stored.
        """
        with self._lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
                self.connection.execute("COMMIT")
            except (apsw.Error, OSError) as error:
                raise UnavailableError("the log", f"{type(error).__name__}: {error}") from error
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    # ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def commit(self, at: int, batch: Sequence[Decided]) -> None:
        """Store ``batch`` and its link, then the witness.

        Raises:
            UnavailableError: The disk does not take it, or does not say what became of it.
        """
        written = [decided for decided in batch if decided.row is not None]
        link = self.link
        try:
            with self._transaction() as connection:
                self._vault.write_keys()
                if written:
                    link = next_link(self.link, at, written[-1].committed.position, [one.body for one in written])
                    _insert(connection, written, link)
                _move(connection, [decided.checkpoint for decided in batch if decided.checkpoint is not None])
        except UnavailableError:
            if not (written and self._has_landed(link)):
                raise
        self.link = link
        if written and self._durability == "full":
            self.witness.write(link)

    def _has_landed(self, link: Link) -> bool:
        """Whether a COMMIT that reported an error is there all the same, and on the platter."""
        with self._lock:
            try:
                self._connect_again()
                return self.link == link and self._is_copied()
            except (apsw.Error, UnavailableError):
                return False

    def _is_copied(self) -> bool:
        # Of what a failed sync has left unwritten the next sync knows nothing: so all of it is written again.
        frames, copied = self.connection.wal_checkpoint()
        return frames == copied

    def reopen(self) -> None:
        """After an error: forget the connection, and try whether the disk takes something again."""
        self._connect_again()
        self.set_meta("probe", os.urandom(PROBE_BYTES))
        self.set_meta("probe", b"")

    def _connect_again(self) -> None:
        with self._lock:
            try:
                self.connection.close()
                self._open()
            except (apsw.Error, OSError, LogDamagedError) as error:
                raise UnavailableError("the log", f"{type(error).__name__}: {error}") from error

    def set_meta(self, key: str, value: Any) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # ── what is kept in memory first ─────────────────────────────────────────────────────────────────────────────────
    def flush_keys(self, tail: Tail) -> None:
        """Enter the keys of ``tail``; its rows are known to be whole, for they were written by this process."""
        last = tail.lasts()[-1]
        with self._transaction() as connection:
            write_keys(connection, tail)
            at = connection.execute("SELECT max(at) FROM commits WHERE last <= ?", (last,)).get
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("flushed", last), ("verified", at)])

    def write_all_keys(self, upto: int) -> None:
        with self._transaction() as connection:
            write_all_keys(connection, upto)

    def flush_views(self, shelves: Sequence[SqliteShelf]) -> None:
        with self._transaction() as connection:
            for shelf in shelves:
                shelf.write(connection)

    def within(self, job: Callable[[apsw.Connection], None]) -> None:
        """Run ``job`` in a transaction. Raises UnavailableError; nothing of it is stored then."""
        with self._transaction() as connection:
            job(connection)

    # ── the WAL ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def wants_checkpoint(self) -> bool:
        return self._pages >= PAGES_MAX

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Copy the WAL into the database. A failure is no harm: the WAL stays."""
        with self._lock:
            self._pages = 0
            try:
                self.connection.wal_checkpoint(mode=mode)
                self.witness.write(self.link)  # under NORMAL only now: it must not be ahead of what was synced
                self.witness.sync()
            except (apsw.Error, OSError):
                return

    def overwrite(self, views: Collection[str]) -> None:
        """Leave nothing of the records of other ``views``, of snapshots, nor of what was deleted or changed.

        Raises:
            UnavailableError: Somebody reads what is to be overwritten; it is not done.
        """
        self.within(partial(drop_others, views))
        self.within(drop_snapshots)
        with self._lock:
            try:
                self.connection.set_busy_timeout(OVERWRITE_TIMEOUT_MS)
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error as error:
                raise UnavailableError("the log", f"it could not be overwritten: {error}") from error
            finally:
                self.connection.set_busy_timeout(0)

    def close(self) -> None:
        with self._lock:
            self.connection.close()
            self.witness.close()


PROBE_BYTES = 65_536
"""More than what a nearly full disk may still have."""


def _insert(connection: apsw.Connection, written: Sequence[Decided], link: Link) -> None:
    _many(connection, "log(pos, body, branch)", "(?, ?, 0)", [(one.committed.position, one.body) for one in written])
    _many(connection, "ids(id, pos)", "(?, ?)", sorted(entered for one in written for entered in one.entered))
    _many(connection, "open(id, pos)", "(?, ?)", [opened for one in written for opened in one.opened])
    for one in written:
        if one.closed is not None:
            _close(connection, one)
    connection.execute("INSERT INTO commits VALUES (?, ?, ?)", link)


def _many(connection: apsw.Connection, table: str, marks: str, rows: Sequence[tuple[Any, Any]]) -> None:
    """One statement for each chunk of ``rows``: thousands of steps of the interpreter fewer than one for each row."""
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            values = [value for row in rows[start : start + size] for value in row]
            connection.execute(f"INSERT INTO {table} VALUES {', '.join([marks] * size)}", values)  # noqa: S608  # no input
            start += size


def _close(connection: apsw.Connection, one: Decided) -> None:
    connection.execute("UPDATE ids SET done = ? WHERE id = ?", (one.committed.position, one.closed))
    connection.execute("DELETE FROM open WHERE id = ?", (one.closed,))
    assert connection.changes() == 1, "a request was closed that is not open"


def _move(connection: apsw.Connection, moved: Sequence[Moved]) -> None:
    for subscriber, position in moved:
        if position is None:
            connection.execute("DELETE FROM checkpoints WHERE subscriber = ? AND branch = 0", (subscriber,))
        else:
            connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, 0, ?)", (subscriber, position))
