"""A log that no daemon has open, checked where it lies."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import apsw
import msgspec

from ksi.core.errors import LogDamagedError, NotFoundError
from ksi.core.events import LogSizes
from ksi.store.chain import GENESIS, seen_in, witness_of
from ksi.store.keyfile import KeyFile, keys_of
from ksi.store.lock import LockFile, lock_of
from ksi.store.opening import checked_commits, stored_head
from ksi.store.schema import MISREAD, connect_reader
from ksi.store.sizes import sizes_of
from ksi.store.vault import Vault
from ksi.store.verify import verify


class Verdict(msgspec.Struct, frozen=True):
    """What is wrong with a log, one sentence each, and its last position."""

    problems: list[str]
    head: int


def verify_file(path: Path) -> Verdict:
    """Check the log at ``path`` that no daemon has open; nothing is changed.

    Raises:
        NotFoundError: There is none.
        LogLockedError: A daemon has it; ask that.
    """
    if not path.exists():
        raise NotFoundError("log", str(path))
    lock = LockFile(lock_of(path))
    try:
        return _verdict(path)
    except apsw.Error as error:
        return Verdict([f"SQLite can not read it: {error}"], 0)
    finally:
        lock.release()


def _verdict(path: Path) -> Verdict:
    connection = as_it_lies(path)
    vault = Vault(KeyFile(keys_of(path)))
    try:
        problems = verify(connection, seen_in(witness_of(path)), vault)
        return Verdict(problems, stored_head(connection).last)
    finally:
        vault.close()
        connection.close()


def whole_up_to(path: Path) -> int:
    """The end of the last commit that is as it was written, with all in front of it; 0 where none can be read."""
    last = 0
    with suppress(LogDamagedError, apsw.Error, *MISREAD), closing(as_it_lies(path)) as connection:
        for commit in checked_commits(connection, GENESIS):
            last = commit.link.last
    return last


def sizes_of_file(path: Path) -> LogSizes:
    """What of the log at ``path`` is what. Raises LogDamagedError where SQLite can not read it."""
    with closing(as_it_lies(path)) as connection:
        try:
            return sizes_of(connection)
        except MISREAD as error:
            raise LogDamagedError(str(error), position=0) from error


def as_it_lies(path: Path) -> apsw.Connection:
    """The log at ``path``, which nobody has open, to be read; no file is made beside it."""
    if path.with_name(path.name + "-wal").exists():
        return connect_reader(path, None)
    # Else a reader would make a WAL, and leave it.
    uri = f"{path.absolute().as_uri()}?immutable=1"
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
