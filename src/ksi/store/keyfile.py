"""The file of the keys of subjects: beside the log, with a backup of its own, made when the first key is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import apsw

from ksi.store.schema import set_pragmas
from ksi.store.vault import Key

# A key that was destroyed leaves its id, and not whose it was: so a missing key can be told from a destroyed one.
_TABLE = """
CREATE TABLE IF NOT EXISTS keys(id BLOB PRIMARY KEY, subject TEXT, secret BLOB) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS by_subject ON keys(subject) WHERE subject IS NOT NULL;
"""


def keys_of(log: Path) -> Path:
    """The file of the keys of the log at ``log``."""
    return log.with_name(log.name + "-keys")


class KeyFile:
    """See :class:`ksi.store.vault.KeyTable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._opened() if path.exists() else None

    def _opened(self) -> apsw.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = apsw.Connection(str(self._path))
        # No WAL: it would keep a key that is destroyed. What is deleted is overwritten.
        set_pragmas(connection, journal_mode="delete", secure_delete=1, synchronous="extra")
        connection.execute(_TABLE)
        return connection

    def current(self, subject: str) -> Key | None:
        return self._one("SELECT id, subject, secret FROM keys WHERE subject = ?", subject)

    def find(self, key_id: bytes) -> Key | None:
        return self._one("SELECT id, subject, secret FROM keys WHERE id = ? AND secret IS NOT NULL", key_id)

    def _one(self, query: str, value: str | bytes) -> Key | None:
        found = None if self._connection is None else self._connection.execute(query, (value,)).fetchone()
        return None if found is None else Key(*found)

    def add(self, keys: Sequence[Key]) -> None:
        if keys:
            if self._connection is None:
                self._connection = self._opened()
            with self._connection as connection:
                connection.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", keys)

    def destroy(self, subject: str) -> None:
        if self._connection is not None:
            self._connection.execute("UPDATE keys SET subject = NULL, secret = NULL WHERE subject = ?", (subject,))

    def destroyed(self) -> bool:
        return self._holds("SELECT 1 FROM keys WHERE secret IS NULL LIMIT 1")

    def is_empty(self) -> bool:
        return not self._holds("SELECT 1 FROM keys LIMIT 1")

    def _holds(self, query: str) -> bool:
        return self._connection is not None and self._connection.execute(query).get is not None

    def knows(self, key_id: bytes) -> bool:
        query = "SELECT 1 FROM keys WHERE id = ?"
        return self._connection is not None and self._connection.execute(query, (key_id,)).get is not None

    def copy_to(self, copy: apsw.Connection) -> None:
        """Make ``copy``, an empty database, the same; without any key where there is no file."""
        source = self._connection or apsw.Connection(":memory:")
        source.execute(_TABLE)
        with copy.backup("main", source, "main") as backup:
            backup.step()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
