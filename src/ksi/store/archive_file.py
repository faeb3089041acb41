"""The file of an archive: rows as they stood in the log, each with the stub that stands there in its place.

It is an SQLite database, so that a bit that is flipped in it does not hide; its rows prove themselves as those of the
log do, by digests that the log's stubs repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from ksi.core.errors import ConflictError, LogDamagedError, NotFoundError
from ksi.core.events import ArchiveCategory
from ksi.store.chain import DIGEST
from ksi.store.schema import MISREAD, pragma
from ksi.store.stub import checked_row, is_stub

APPLICATION = 0x4B_53_41_31  # "KSA1"
PAGE = 512
TABLES = f"""
PRAGMA application_id={APPLICATION};
CREATE TABLE about(facts BLOB NOT NULL);
CREATE TABLE rows(pos INTEGER PRIMARY KEY, body BLOB NOT NULL, stub BLOB NOT NULL);
"""


class Leaving(NamedTuple):
    """A row that leaves: its position, as it stood in the log, and what stands there now."""

    last: int
    body: bytes
    stub: bytes


class About(msgspec.Struct, frozen=True):
    """What an archive says of itself. ``log``: the hash of the first commit of the log that it is of.

    ``stubs``: the hash over all stubs, in order.
    """

    id: bytes
    log: bytes
    before: int
    rest: int
    categories: tuple[ArchiveCategory, ...]
    rows: int
    stubs: bytes


def write_archive(path: Path, rows: Iterable[Leaving], about: Callable[[int, bytes], About]) -> None:
    """Fill the new, empty file ``path``. ``about`` gets the number of rows, and the hash of their stubs."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("PRAGMA journal_mode=OFF").get  # noqa: B018  # nobody reads it before it is whole
        connection.execute(TABLES)
        with connection:
            stubs, count = hashlib.sha256(), 0
            for row in rows:
                connection.execute("INSERT INTO rows VALUES (?, ?, ?)", row)
                stubs.update(row.stub)
                count += 1
            facts = msgspec.msgpack.encode(about(count, stubs.digest()))
            connection.execute("INSERT INTO about VALUES (?)", (facts,))
    finally:
        connection.close()


def check_archive(path: Path) -> About:
    """Read all of the archive at ``path``, and say what it is.

    Raises:
        NotFoundError: There is no such file.
        ConflictError: It is no archive.
        LogDamagedError: It is not as it was written.
    """
    try:
        with _opened(path) as connection:
            return _checked(connection, path)
    except MISREAD as error:
        raise _damaged(path, str(error)) from None


def read_page(path: Path, after: int) -> list[Leaving]:
    """The next rows of an archive that was checked, at most :data:`PAGE`."""
    with _opened(path) as connection:
        return list(map(Leaving._make, connection.execute(_PAGE, (after, PAGE))))


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    if not path.is_file():
        raise NotFoundError("archive", str(path))
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        yield connection
    finally:
        connection.close()


def _checked(connection: apsw.Connection, path: Path) -> About:
    if pragma(connection, "application_id") != APPLICATION:
        raise ConflictError(f"{path} is no archive", path=str(path))
    about = msgspec.msgpack.decode(connection.execute("SELECT facts FROM about").get, type=About)
    stubs, count = hashlib.sha256(), 0
    for row in map(Leaving._make, connection.execute("SELECT pos, body, stub FROM rows ORDER BY pos")):
        if not _is_whole(row):
            raise _damaged(path, f"the row @{row.last} is not as it was written")
        stubs.update(row.stub)
        count += 1
    if (count, stubs.digest()) != (about.rows, about.stubs):
        raise _damaged(path, f"it holds {count} of {about.rows} rows, or others than those")
    return about


def _is_whole(row: Leaving) -> bool:
    """The row is what was written, and its stub is that of it."""
    if not is_stub(row.stub) or row.stub[-DIGEST:] != row.body[-DIGEST:]:
        return False
    return all((found := checked_row(part)) is not None and found.last == row.last for part in (row.body, row.stub))


def _damaged(path: Path, reason: str) -> LogDamagedError:
    return LogDamagedError(f"the archive {path}: {reason}", position=0)


_PAGE = "SELECT pos, body, stub FROM rows WHERE pos > ? ORDER BY pos LIMIT ?"
