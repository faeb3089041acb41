"""The file of the SQLite log: its tables, and connections to it."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import apsw

from ksi.core.errors import LogDamagedError, LogVersionError, UnavailableError
from ksi.core.home import said_of_disk

Durability = Literal["full", "normal"]
_log = logging.getLogger(__name__)
DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError)
"""What SQLite raises where a page, the header, or a table's definition is not what was written."""
MISREAD = (*DAMAGE, TypeError, ValueError, AttributeError, struct.error)
"""The same, and what follows where a record says another type of its value: no layer below us notices that."""
APPLICATION = 0x4B_53_49_31  # "KSI1"
VIEWS = """
-- Which views have tables. What is derived is made again where it is gone.
CREATE TABLE IF NOT EXISTS views(
  name TEXT PRIMARY KEY, version INTEGER NOT NULL, shape TEXT NOT NULL, pos INTEGER NOT NULL) WITHOUT ROWID;
"""
FORGET_GONE = """
DELETE FROM views WHERE 'view:' || name NOT IN (SELECT name FROM sqlite_master WHERE type = 'table')
"""
TABLES = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
-- Ids of streams, given when a stream's keys are first written.
CREATE TABLE streams(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE names(name TEXT PRIMARY KEY) WITHOUT ROWID;
-- The truth. pos is the position of the row's last event; body is packed, its last 16 bytes are the digest of the rest.
CREATE TABLE log(pos INTEGER PRIMARY KEY, branch INTEGER NOT NULL, body BLOB NOT NULL);
-- Ids that can not be derived; done is the row that closed the request, when it came later.
CREATE TABLE ids(id BLOB PRIMARY KEY, pos INTEGER NOT NULL, done INTEGER) WITHOUT ROWID;
CREATE TABLE open(pos INTEGER PRIMARY KEY, id BLOB NOT NULL);
-- A link for each commit; at strictly increases.
CREATE TABLE commits(at INTEGER PRIMARY KEY, last INTEGER NOT NULL, hash BLOB NOT NULL);
-- at: the first position of the posting, which is a msgpack array of the differences of rows' positions.
CREATE TABLE keys(key INTEGER, branch INTEGER, at INTEGER, posting BLOB NOT NULL, PRIMARY KEY (key, branch, at))
  WITHOUT ROWID;
{VIEWS}
CREATE TABLE checkpoints(subscriber TEXT, branch INTEGER, pos INTEGER NOT NULL, PRIMARY KEY (subscriber, branch))
  WITHOUT ROWID;
"""
STEPS: Sequence[str] = (TABLES,)
"""How a file comes from one version to the next: a new one takes all of them, an older one those that it lacks. What
was released is never changed; who needs another table adds a step."""


def connect_writer(path: Path, durability: Durability, vfs: str | None) -> apsw.Connection:
    """The one connection that writes and checkpoints; the file and its tables are made where there are none.

    Raises:
        LogDamagedError: The file is no log.
        LogVersionError: It is one of a newer version.
        UnavailableError: Its disk does not take what even opening writes.
    """
    try:
        connection = apsw.Connection(str(path), vfs=vfs)
        try:
            _prepare(connection, durability)
        except BaseException:
            connection.close()
            raise
    except (apsw.IOError, apsw.FullError, apsw.CantOpenError) as error:
        raise UnavailableError("the log", f"{path}: {error}{said_of_disk(path)}") from error
    return connection


def _prepare(connection: apsw.Connection, durability: Durability) -> None:
    try:
        version = version_of(connection)
        if version > len(STEPS):
            raise LogVersionError(connection.filename, found=version, known=len(STEPS))
        set_pragmas(connection, journal_mode="wal", synchronous=durability, wal_autocheckpoint=0, cache_size=-4_096)
        set_pragmas(connection, secure_delete=1)  # records of views hold in the clear what the log has sealed
        bring_up(connection, version, STEPS)
        connection.execute(VIEWS)
        connection.execute(FORGET_GONE)
    except apsw.NotADBError as error:
        raise LogDamagedError(str(error), position=0) from None


def version_of(connection: apsw.Connection) -> int:
    """The version of a log; 0 of a file with nothing in it. Raises LogDamagedError where it is something else."""
    application, version = pragma(connection, "application_id"), pragma(connection, "user_version")
    if (application, bool(version)) == (APPLICATION, True):
        return int(version)
    if application or version or pragma(connection, "schema_version"):
        raise LogDamagedError(f"application {application:#x}, schema {version}: not this log's", position=0)
    return 0


def bring_up(connection: apsw.Connection, version: int, steps: Sequence[str]) -> None:
    """Take the steps that a file of ``version`` lacks, all of them or none."""
    if version == len(steps):
        return
    if version:
        _log.info("%s: from format %d to %d", connection.filename, version, len(steps))
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA application_id={APPLICATION}; PRAGMA user_version={len(steps)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def connect_reader(path: Path, vfs: str | None) -> apsw.Connection:
    """A connection that can not write."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    connection.execute("PRAGMA query_only=1; PRAGMA cache_size=-4096")
    return connection


_SYNCHRONOUS = {"normal": 1, "full": 2, "extra": 3}


def set_pragmas(connection: apsw.Connection, **wanted: Any) -> None:
    """Set each and read it back: a pragma that did not take says nothing."""
    for name, value in wanted.items():
        connection.execute(f"PRAGMA {name}={value}").get  # noqa: B018  # runs the statement to its end
        actual = pragma(connection, name)
        if actual != _SYNCHRONOUS.get(value, value):
            raise LogDamagedError(f"SQLite has {name}={actual}, not {value}", position=0)


def pragma(connection: apsw.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").get
