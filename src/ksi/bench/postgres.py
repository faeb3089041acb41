"""The log on PostgreSQL: 64 appenders, beside bare batches, and a commit for each event. Its server syncs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as counter

import psycopg
import uvloop

from ksi.bench.measure import Contestant, Row, Sample, Stopwatch, rival
from ksi.core.events import NewEvent
from ksi.store.postgres_log import PostgresEventStore
from ksi.testing.postgres import PostgresServer, binaries, postgres_server

APPENDERS = 64
_CREATE = "CREATE TABLE {}(position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)"
_number = counter()


@contextmanager
def serving() -> Iterator[PostgresServer | None]:
    """A server that syncs; None where its binaries are not installed."""
    if binaries() is None:
        yield None
        return
    with postgres_server({}) as server:
        yield server


def row(server: PostgresServer, raw: bytes, *, count: int) -> Row:
    url = server.url("postgres")
    return Row(
        f"store on PostgreSQL: append, {APPENDERS} at once",
        [
            rival("bare psycopg, batches of 64 ready rows", lambda: _bare(url, raw, count)),
            Contestant("KSI append", lambda: _ksi(server, raw, count)),
        ],
    )


def each(server: PostgresServer, raw: bytes, *, count: int, connections: int) -> Sample:
    """A commit for each event, as an event store without batches does it."""
    return uvloop.run(_each(server.url("postgres"), raw, count, connections))


def _bare(url: str, raw: bytes, count: int) -> Sample:
    with psycopg.connect(url, autocommit=True) as connection:
        insert, batch = _table(connection), [raw] * APPENDERS
        watch = Stopwatch()
        for _ in range(0, count, APPENDERS):
            connection.execute(f"{insert} SELECT unnest(%b)", (batch,))
        return watch.sample(count)


def _table(connection: psycopg.Connection) -> str:
    """A fresh table; the beginning of an INSERT into it."""
    name = f"bare_{next(_number)}"
    connection.execute(_CREATE.format(name))
    return f"INSERT INTO {name}(body)"


def _ksi(server: PostgresServer, raw: bytes, count: int) -> Sample:
    server.execute("DROP SCHEMA IF EXISTS ksi CASCADE")
    return uvloop.run(_appended(server.url("postgres"), raw, count))


async def _appended(url: str, raw: bytes, count: int) -> Sample:
    async with PostgresEventStore.open(url) as store:

        async def appender(number: int) -> None:
            for _ in range(count // APPENDERS):
                await store.append(f"item/{number}", [NewEvent(name="bench:item_was_put", data=raw)])

        watch = Stopwatch()
        await asyncio.gather(*[appender(number) for number in range(APPENDERS)])
        return watch.sample(count)


async def _each(url: str, raw: bytes, count: int, connections: int) -> Sample:
    with psycopg.connect(url, autocommit=True) as connection:
        insert = _table(connection)

    async def appender() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for _ in range(count // connections):
                await connection.execute(f"{insert} VALUES (%b)", (raw,))

    watch = Stopwatch()
    await asyncio.gather(*[appender() for _ in range(connections)])
    return watch.sample(count // connections * connections)
