"""Everything that a PostgreSQL log says of itself, checked against itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg

from ksi.core.errors import LogDamagedError, NotFoundError, UnavailableError
from ksi.store.adopt import entered_of
from ksi.store.archives import CheckedStubs
from ksi.store.chain import GENESIS
from ksi.store.offline import Verdict
from ksi.store.postgres_arrays import Byteas
from ksi.store.postgres_keys import key_number
from ksi.store.postgres_reading import read_news, stored_checkpoints, stored_link
from ksi.store.postgres_schema import Connection, connect, exists, place_of
from ksi.store.postgres_snapshots import wrong_snapshots
from ksi.store.query import keys_of
from ksi.store.row import Row
from ksi.store.vault import Vault
from ksi.store.verify import Indexes, SealedPayloads

KEYS_DAMAGED = "the keys, by which events are found, do not fit the log"


def verify_database(url: str, vault: Vault | None = None) -> Verdict:
    """Check the log, whoever has it open; ``vault`` None: the keys are elsewhere.

    Raises:
        UnavailableError: There is no server, or it does not let us in.
        NotFoundError: The database holds no log.
    """
    try:
        with closing(connect(url)) as connection, connection.transaction():
            # One state of the log, whatever is committed meanwhile.
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if not exists(connection):
                raise NotFoundError("log", place_of(url))
            return Verdict([*_problems(connection, SealedPayloads(vault))], stored_link(connection).last)
    except psycopg.Error as error:
        raise UnavailableError("the log", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def _problems(connection: Connection, payloads: SealedPayloads) -> Iterator[str]:
    ids: dict[bytes, tuple[int, int | None]] = {}
    indexes, keys, stubs = Indexes(ids.get), _Keys(), CheckedStubs()
    try:
        for rows in _pages(connection):
            ids.clear()
            ids.update(_stored_ids(connection, [row for row, _ in rows]))
            for row, stored in rows:
                stubs.add(row, stored)
                yield from indexes.add(row)
                keys.add(row)
                payloads.add(row)
    except LogDamagedError as error:
        yield error.message
        return
    yield from indexes.end(dict(connection.execute("SELECT id, pos FROM ksi.open", binary=True).fetchall()))
    if keys.counts != connection.execute(_COUNTS).fetchone():
        yield KEYS_DAMAGED
    yield from payloads.end()
    yield from stubs.end()
    head = stored_link(connection).last
    yield from wrong_snapshots(connection, head)
    yield from _beyond(connection, head)


def _pages(connection: Connection) -> Iterator[Sequence[tuple[Row, bytes]]]:
    news = read_news(connection, GENESIS)
    yield news.rows
    while news.more:
        news = read_news(connection, news.link)
        yield news.rows


def _stored_ids(connection: Connection, rows: Sequence[Row]) -> Iterator[tuple[bytes, tuple[int, int | None]]]:
    """What the index says of all ids in ``rows``."""
    asked = Byteas({raw for row in rows for raw in (row.origin.event_id, *(entered for entered, _ in entered_of(row)))})
    query = "SELECT id, pos, done FROM ksi.ids WHERE id = ANY (%b)"
    for raw, position, done in connection.execute(query, (asked,), binary=True):
        yield raw, (position, done)


class _Keys:
    """How many entries the rows should have in ``log``, ``streams`` and ``keys``."""

    def __init__(self) -> None:
        self.counts = (0, 0, 0)

    def add(self, row: Row) -> None:
        rows, streams, keys = self.counts
        numbers = {key_number(key) for key in keys_of(row)}
        self.counts = (rows + 1, streams + len({line.stream for line in row.lines}), keys + len(numbers))


_COUNTS = "SELECT (SELECT count(*) FROM ksi.log), (SELECT count(*) FROM ksi.streams), (SELECT count(*) FROM ksi.keys)"


def _beyond(connection: Connection, head: int) -> Iterator[str]:
    for subscriber, position in stored_checkpoints(connection).items():
        if position > head:
            yield f"the checkpoint of {subscriber!r} is at @{position}, beyond the head @{head}"
