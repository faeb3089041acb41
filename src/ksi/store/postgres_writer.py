"""The connection that writes: whole batches, each in one round trip, sent again when it is not known what became of it.

Who decided a batch on a log that has gone on since gets what others wrote, and decides again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import TypeVar

import psycopg

from ksi.core.clock import Clock
from ksi.core.errors import LogLockedError, UnavailableError
from ksi.core.events import Position
from ksi.store.chain import GENESIS, next_link
from ksi.store.decide import Decided
from ksi.store.postgres_arrays import Bigints, Byteas
from ksi.store.postgres_keys import as_stored, entries, names_in
from ksi.store.postgres_reading import News, read_news, read_recent
from ksi.store.postgres_schema import Access, Connection, connect, exists, place_of, prepare, syncs, take
from ksi.store.postgres_shelf import PostgresShelf
from ksi.store.row import Row
from ksi.store.schema import Durability
from ksi.store.sight import marked
from ksi.store.vault import Vault

T = TypeVar("T")
RETRY_FOR = 15.0
PAUSE_MIN, PAUSE_MAX = 0.02, 0.5
"""Seconds: how long a job is tried again while there is no server, and between two tries."""


class PostgresWriter:
    """Owns the connection, and with it the log for as long as that lives. Its jobs run one at a time.

    ``link`` is the last that is known here, ``sent`` the last that was sent, ``backend`` the server's process for us.
    """

    def __init__(self, url: str, access: Access, durability: Durability, clock: Clock, vault: Vault) -> None:
        self._url, self._access, self._clock = url, access, clock
        self._durability: Durability = durability
        self._vault = vault
        self._lock = RLock()  # a view that is registered is flushed on the loop
        self._names: set[str] = set()
        self._stopped = self._is_closed = False
        try:
            self._connection = self._connected()
        except psycopg.Error as error:
            raise UnavailableError("the log", _said(error)) from error
        self.syncs = syncs(self._connection)
        self.link = self.sent = GENESIS

    def _connected(self) -> Connection:
        connection = connect(self._url, self._durability)
        try:
            self.backend = connection.info.backend_pid
            take(connection, self._url, self._access)
            if self._access != "read":
                prepare(connection)
            elif not exists(connection):
                raise UnavailableError("the log", "this database holds none")
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def place(self) -> str:
        """The database, as it may be shown."""
        return place_of(self._url)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def commit(self, at: int, batch: Sequence[Decided], checkpoints: Mapping[str, Position]) -> News | None:
        """Store ``batch``; ``checkpoints`` are those that it was decided on. News: it is not stored, others were first.

        Raises:
            UnavailableError: There was no server for :data:`RETRY_FOR`, or it refuses. It may be stored all the same.
        """
        self._vault.write_keys()
        written = [decided for decided in batch if decided.row is not None]
        link = self.link
        if written:
            link = self.sent = next_link(link, at, written[-1].committed.position, [one.body for one in written])
        names = names_in([one.row for one in written if one.row is not None]) - self._names
        columns = _Columns(written, names, _moves(batch, checkpoints))
        arguments = (self.link.hash if self.link.at else None, *(link if written else (None,) * 3), *columns)
        if not self._tried(lambda connection: connection.execute(_KEEP, arguments).fetchone() == (True,)):
            return self.news()
        self._names |= names
        self.link = link
        return None

    def news(self) -> News:
        """What others wrote behind the link that is known."""
        return self._tried(lambda connection: read_news(connection, self.link))

    def recent(self) -> News:
        """The newest rows; their last link is known from now on."""
        found = self._tried(read_recent)
        self.link = found.link
        return found

    def flush_views(self, shelves: Sequence[PostgresShelf]) -> None:
        def write(connection: Connection) -> None:
            for shelf in shelves:
                shelf.write(connection)

        self.within(write)

    def within(self, job: Callable[[Connection], None]) -> None:
        """``job`` in a transaction."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                job(connection)

        self._tried(work)

    def _tried(self, job: Callable[[Connection], T]) -> T:
        """``job``, which can be done twice, until it succeeds."""
        deadline = self._clock.monotonic() + RETRY_FOR
        pause = PAUSE_MIN
        with self._lock:
            while True:
                try:
                    return job(self._live())
                except (psycopg.OperationalError, LogLockedError) as error:
                    if self._stopped or self._clock.monotonic() > deadline:
                        raise UnavailableError("the log", _said(error)) from error
                except psycopg.Error as error:
                    raise UnavailableError("the log", _said(error)) from error
                time.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX)

    def _live(self) -> Connection:
        if self._is_closed:  # a new connection would own the log again, and nobody would let go of it
            raise UnavailableError("the log", "it is closed")
        if self._connection.closed:
            self._connection = self._connected()
        return self._connection

    def stop_trying(self) -> None:
        """The log is being closed: what fails from now on fails at once."""
        self._stopped = True

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._connection.close()


_KEEP = f"SELECT ksi.keep(%b::bytea, %b::bigint, %b::bigint, %b::bytea, {', '.join(['%b'] * 17)})"  # no input


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


# ── a batch, by columns ──────────────────────────────────────────────────────────────────────────────────────────────
class _Columns:
    """The arguments of ``ksi.keep`` from ``lasts`` on."""

    def __init__(self, written: Sequence[Decided], names: set[str], moves: Sequence[tuple[bytes, int, int]]) -> None:
        self._written = written
        self._names = names
        self._moves = moves

    def __iter__(self) -> Iterator[Bigints | Byteas]:
        written = self._written
        rows = [one.row for one in written if one.row is not None]
        yield Bigints([row.last for row in rows])
        yield Byteas([one.body for one in written])
        yield from _two([entered for one in written for entered in one.entered])
        yield from _two([opened for one in written for opened in one.opened])
        yield from _two([(one.closed, one.committed.position) for one in written if one.closed is not None])
        versions = [
            (stream.encode(), version, row.last) for row in rows for stream, version in versions_of(row).items()
        ]
        yield from _two([(name, version) for name, version, _ in versions])
        yield Bigints([last for _, _, last in versions])
        yield from entries(rows)
        yield as_stored(self._names)
        yield from _two([(subscriber, stood) for subscriber, stood, _ in self._moves])
        yield Bigints([moved for _, _, moved in self._moves])


def _two(pairs: Sequence[tuple[bytes, int]]) -> tuple[Byteas, Bigints]:
    return Byteas([raw for raw, _ in pairs]), Bigints([number for _, number in pairs])


def versions_of(row: Row) -> dict[str, int]:
    """The last version of each stream in ``row``, which on a branch is another stream than on main."""
    return {marked(line.stream, row.origin.branch): line.version for line in row.lines}


def _moves(batch: Sequence[Decided], checkpoints: Mapping[str, Position]) -> list[tuple[bytes, int, int]]:
    """Subscribers whose checkpoints the batch moves, where they stood and where they will; 0: there is none."""
    moved = dict([decided.checkpoint for decided in batch if decided.checkpoint is not None])
    return [(name.encode(), checkpoints.get(name, 0), position or 0) for name, position in sorted(moved.items())]
