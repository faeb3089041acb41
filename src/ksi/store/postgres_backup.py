"""A copy of the log in PostgreSQL as one file, of the kind that a log on SQLite gives; and a log out of such a file.

So a copy goes into a database or into a home, wherever it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import psycopg

from ksi.core.errors import ConflictError, NotFoundError, UnavailableError, UnsupportedError
from ksi.core.events import Backup
from ksi.store.adopt import adopt
from ksi.store.backup import Restored, checked_copy, copy_keys, new_file, sha256_of
from ksi.store.bodies import SqliteBodies
from ksi.store.chain import GENESIS
from ksi.store.copying import NewLog
from ksi.store.keyfile import keys_of
from ksi.store.opening import Commit, checked_commits, stored_checkpoints, stored_head
from ksi.store.postgres_arrays import Bigints, Byteas
from ksi.store.postgres_bodies import PostgresBodies
from ksi.store.postgres_keys import write_anew
from ksi.store.postgres_reading import News, read_news
from ksi.store.postgres_reading import stored_checkpoints as checkpoints_in_database
from ksi.store.postgres_schema import Connection, connect, place_of, prepare, take
from ksi.store.postgres_writer import versions_of
from ksi.store.row import Row
from ksi.store.schema import connect_writer, set_pragmas

PAGE = 256
"""Commits that are put into a database at once."""


def back_up(url: str, own_keys: Path | None, target: Path, keys: Path | None) -> Backup:
    """Copy the log at ``url`` into ``target``, as it stands now; the file of keys ``own_keys`` into ``keys``.

    Raises:
        ConflictError: The file is there already.
        LogDamagedError: The log is not whole; there is no file then.
        UnsupportedError: The keys are asked for, and it was opened without them.
        psycopg.Error: There is no server, or it went away.
    """
    if keys is not None and own_keys is None:
        raise UnsupportedError("this log was opened without a file of keys: there is none to copy")
    with new_file(target) as made:
        _copy(url, made)
        position = checked_copy(made, GENESIS)
        if keys is not None and own_keys is not None:
            copy_keys(own_keys, keys)
        return Backup(str(target), position, made.stat().st_size, sha256_of(made), None if keys is None else str(keys))


def _copy(url: str, target: Path) -> None:
    with (
        closing(connect(url)) as source,
        closing(connect_writer(target, "full", None)) as copy,
        source.transaction(),
    ):
        # One state of the log, whatever is committed meanwhile; it may take longer to write a page than to read one.
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        source.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        set_pragmas(copy, journal_mode="delete")
        with copy:
            _take_over(source, NewLog(copy))


def _take_over(source: Connection, log: NewLog) -> None:
    news = read_news(source, GENESIS)
    while True:
        for commit in _commits(news):
            log.take(commit)
        if not news.more:
            break
        news = read_news(source, news.link)
    log.write_keys()
    log.write_checkpoints(checkpoints_in_database(source).items())
    log.write_open()


def _commits(news: News) -> Iterator[Commit]:
    place = 0
    for link in news.links:
        begin = place
        while place < len(news.rows) and news.rows[place][0].last <= link.last:
            place += 1
        own = news.rows[begin:place]
        yield Commit(link, [row for row, _ in own], [body for _, body in own])


# ── the way back ─────────────────────────────────────────────────────────────────────────────────────────────────────
def restore(backup: Path, url: str, log: Path, keys: Path | None = None) -> Restored:
    """Make the log at ``url``, where none is, out of ``backup``, and the keys beside the home's ``log`` of ``keys``.

    Raises:
        NotFoundError: There is no such copy.
        ConflictError: There is a log with events already, or a file of keys.
        LogLockedError: A daemon has it.
        LogDamagedError: The copy is not whole.
        UnavailableError: There is no server, or it does not let us in.
    """
    for given in (backup, keys):
        if given is not None and not given.is_file():
            raise NotFoundError("backup", str(given))
    position = checked_copy(backup, GENESIS)
    try:
        with (
            closing(connect(url)) as target,
            closing(apsw.Connection(str(backup), flags=apsw.SQLITE_OPEN_READONLY)) as source,
        ):
            take(target, url, "own")
            prepare(target)
            if target.execute("SELECT FROM ksi.commits LIMIT 1").fetchone() is not None:
                raise ConflictError(f"{place_of(url)} has a log already", path=place_of(url))
            with target.transaction():
                _fill(source, target)
            if keys is not None:
                copy_keys(keys, keys_of(log))
    except psycopg.Error as error:
        raise UnavailableError("the log", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    return Restored(place_of(url), position)


def _fill(source: apsw.Connection, target: Connection) -> None:
    target.execute("SET LOCAL statement_timeout = 0")
    rows = _Rows(target)
    for commit in checked_commits(source, GENESIS):
        rows.add(commit)
    rows.write()
    requests = rows.open
    target.execute("INSERT INTO ksi.open SELECT * FROM unnest(%b, %b)", (Byteas(requests), Bigints(requests.values())))
    stood = {name.encode(): position for name, position in stored_checkpoints(source).items()}
    target.execute("INSERT INTO ksi.checkpoints SELECT * FROM unnest(%b, %b)", (Byteas(stood), Bigints(stood.values())))
    write_anew(target)
    if SqliteBodies(source).are_any_away():
        PostgresBodies(target).note_any_away()
    assert stored_head(source).last == rows.last  # what was checked is what was written


class _Rows:
    """Commits on their way into the tables, with what their rows say of ids, requests and streams."""

    def __init__(self, target: Connection) -> None:
        self._target = target
        self.open: dict[bytes, int] = {}
        self.last = 0
        self._begin()

    def _begin(self) -> None:
        self._commits: list[Commit] = []
        self._ids: list[tuple[bytes, int]] = []
        self._done: list[tuple[bytes, int]] = []

    def add(self, commit: Commit) -> None:
        self._commits.append(commit)
        self.last = commit.link.last
        for row in commit.rows:
            adopt(row, _Entered(self._ids, self._done), self.open)
        if len(self._commits) >= PAGE:
            self.write()

    def write(self) -> None:
        for statement, columns in self._statements():
            self._target.execute(statement, columns)
        self._begin()

    def _statements(self) -> Iterator[tuple[str, tuple[Bigints | Byteas, ...]]]:
        rows = [row for commit in self._commits for row in commit.rows]
        bodies = [body for commit in self._commits for body in commit.bodies]
        links = [commit.link for commit in self._commits]
        yield _LOG, (Bigints([row.last for row in rows]), Byteas(bodies))
        yield _IDS, (Byteas([raw for raw, _ in self._ids]), Bigints([position for _, position in self._ids]))
        yield _DONE, (Byteas([raw for raw, _ in self._done]), Bigints([position for _, position in self._done]))
        yield _STREAMS, _streams(rows)
        yield (
            _COMMITS,
            (
                Bigints([link.at for link in links]),
                Bigints([link.last for link in links]),
                Byteas([link.hash for link in links]),
            ),
        )


def _streams(rows: list[Row]) -> tuple[Byteas, Bigints, Bigints]:
    found = [(name.encode(), version, row.last) for row in rows for name, version in versions_of(row).items()]
    return (
        Byteas([name for name, _, _ in found]),
        Bigints([version for _, version, _ in found]),
        Bigints([last for _, _, last in found]),
    )


class _Entered:
    """See :class:`ksi.store.adopt.Enters`."""

    def __init__(self, ids: list[tuple[bytes, int]], done: list[tuple[bytes, int]]) -> None:
        self._ids, self._done = ids, done

    def add(self, raw: bytes, position: int) -> None:
        self._ids.append((raw, position))

    def close(self, raw: bytes, position: int) -> None:
        self._done.append((raw, position))


_LOG = "INSERT INTO ksi.log SELECT * FROM unnest(%b, %b)"
_IDS = "INSERT INTO ksi.ids(id, pos) SELECT * FROM unnest(%b, %b)"
_DONE = "UPDATE ksi.ids SET done = d.pos FROM unnest(%b, %b) AS d(id, pos) WHERE ids.id = d.id"
_STREAMS = "INSERT INTO ksi.streams SELECT * FROM unnest(%b, %b, %b)"
_COMMITS = "INSERT INTO ksi.commits SELECT * FROM unnest(%b, %b, %b)"
