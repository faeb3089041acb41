"""A copy of the log in one file, made while the daemon works and checked before it gets its name; and the way back.

A copy holds the log and its indexes. Read models are left out: they are computed from it, and built again by the next
start; so a copy holds no payload in the clear that the log holds sealed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from ksi.core.errors import ConflictError, LogDamagedError, NotFoundError
from ksi.core.events import Backup, Position
from ksi.store.chain import GENESIS, Link, Witness, seen_in, witness_of
from ksi.store.keyfile import KeyFile, keys_of
from ksi.store.lock import LockFile, lock_of
from ksi.store.opening import stored_head
from ksi.store.schema import APPLICATION, connect_reader, pragma, set_pragmas
from ksi.store.shelf import quoted
from ksi.store.snapshots import drop_snapshots
from ksi.store.verify import verify


class Restored(msgspec.Struct, frozen=True):
    """A log that is there again, up to ``position``."""

    path: str
    position: Position


def back_up(log: Path, vfs: str | None, target: Path, keys: Path | None) -> Backup:
    """Copy the open log at ``log`` into ``target``: all that was acknowledged by now, and perhaps more.

    Its file of keys goes into ``keys``: after the log, so that no payload in the copy lacks its key.

    Raises:
        ConflictError: The file is there already.
        LogDamagedError: What was copied is not whole; there is no file then.
    """
    seen = seen_in(witness_of(log))
    with new_file(target) as made:
        _copy(log, vfs, made)
        position = checked_copy(made, seen)
        if keys is not None:
            copy_keys(keys_of(log), keys)
        return Backup(str(target), position, made.stat().st_size, sha256_of(made), None if keys is None else str(keys))


def _copy(log: Path, vfs: str | None, target: Path) -> None:
    source, copy = connect_reader(log, vfs), apsw.Connection(str(target))
    try:
        with copy.backup("main", source, "main") as backup:
            backup.step()  # all at once: one state of the log, whatever is committed meanwhile
        set_pragmas(copy, journal_mode="delete", secure_delete=1)
        with copy:
            _drop_views(copy)
            drop_snapshots(copy)
    finally:
        source.close()
        copy.close()


def _drop_views(copy: apsw.Connection) -> None:
    tables = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'view:%'").fetchall()
    for (table,) in tables:
        copy.execute(f"DROP TABLE {quoted(str(table))}")
    copy.execute("DELETE FROM views")


def copy_keys(file: Path, target: Path) -> None:
    with new_file(target) as made:
        source, copy = KeyFile(file), apsw.Connection(str(made))
        try:
            source.copy_to(copy)
        finally:
            source.close()
            copy.close()


def checked_copy(copy: Path, seen: Link) -> Position:
    """Its last position. Raises LogDamagedError."""
    try:
        connection = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            if pragma(connection, "application_id") != APPLICATION:
                raise LogDamagedError(f"{copy.name} is no copy of a log", position=0)
            problems, head = verify(connection, seen), stored_head(connection).last
        finally:
            connection.close()
    except apsw.Error as error:
        raise LogDamagedError(f"SQLite can not read {copy.name}: {error}", position=0) from None
    if problems:
        raise LogDamagedError(problems[0], position=head)
    return Position(head)


def restore(backup: Path, log: Path, keys: Path | None = None) -> Restored:
    """Make the log at ``log``, where none is, out of a copy that :func:`back_up` made, and its keys out of ``keys``.

    Raises:
        NotFoundError: There is no such copy.
        ConflictError: There is a log already, or a part of one.
        LogLockedError: A daemon runs there.
        LogDamagedError: The copy is not whole.
    """
    for given in (backup, keys):
        if given is not None and not given.is_file():
            raise NotFoundError("backup", str(given))
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = LockFile(lock_of(log))
    try:
        # A WAL of another log would be played into the copy.
        for part in (log, log.with_name(log.name + "-wal")):
            _refuse_existing(part)
        witness_of(log).unlink(missing_ok=True)
        with new_file(log) as made:
            shutil.copyfile(backup, made)
            position = checked_copy(made, GENESIS)
            if keys is not None:
                copy_keys(keys, keys_of(log))
        _bear_witness(log)
        return Restored(str(log), position)
    finally:
        lock.release()


def _bear_witness(log: Path) -> None:
    connection = connect_reader(log, None)
    witness = Witness(witness_of(log))
    try:
        witness.write(stored_head(connection))
        witness.sync()
    finally:
        witness.close()
        connection.close()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that gets its name when the block ends well, and is gone otherwise."""
    _refuse_existing(path)
    made = path.with_name(f"{path.name}.{os.getpid()}.part")
    os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield made
        sync_file(made)
        _refuse_existing(path)
        made.rename(path)
        sync_file(path.parent)
    finally:
        made.unlink(missing_ok=True)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConflictError(f"{path} is there already", path=str(path))


def sync_file(path: Path) -> None:
    """Have a file, or the names in a directory, on the platter."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
