"""Appends to the log at full durability, beside bare SQLite batches and beside what others do for the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count as counter
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import msgspec
import uvloop

from ksi.bench import peer_clients
from ksi.bench.measure import Contestant, Row, Sample, Stopwatch, rival
from ksi.bench.nats_server import NatsServer
from ksi.bench.plugin import item
from ksi.core.events import NewEvent
from ksi.store import schema
from ksi.store.sqlite_log import SqliteEventStore

if TYPE_CHECKING:
    from ksi.testing.postgres import PostgresServer  # psycopg is an extra

RAW = msgspec.json.encode(item(1))
AT_ONCE = {1: 60, 64: 1, 256: 1}
"""Appenders, and the share of the operations that they do: one alone waits for the disk each time."""
POSTGRES_CONNECTIONS = 32
"""More of them were no faster."""
AIOSQLITE, EVENTSOURCING = "aiosqlite, a commit each", "eventsourcing on SQLite"
JETSTREAM, POSTGRES = "NATS JetStream, publish + ack", "PostgreSQL, a commit each"
TARGET = 0.3
AGAINST = {AIOSQLITE: 15.0, POSTGRES: 4.0}
_number = counter()


class Peers(msgspec.Struct, frozen=True):
    """The servers that run; None where they are not installed."""

    directory: Path
    nats: NatsServer | None
    postgres: PostgresServer | None
    absent: list[str]


def rows(peers: Peers, count: int) -> Iterator[Row]:
    for at_once, share in AT_ONCE.items():
        yield _row(peers, at_once, max(at_once, count // share // at_once * at_once))


def _row(peers: Peers, at_once: int, count: int) -> Row:
    def fresh() -> Path:
        return peers.directory / f"{next(_number)}.db"

    has_targets = at_once == 64
    contestants = [
        rival(f"bare apsw, batches of {at_once} ready rows", lambda: _bare(fresh(), count, at_once)),
        rival("bare apsw, the log's own tables", lambda: _same_tables(fresh(), count, at_once)),
        Contestant(
            "KSI append",
            lambda: uvloop.run(ksi(fresh(), count, at_once)),
            TARGET if has_targets else None,
            AGAINST if has_targets else {},
        ),
        *_others(peers, at_once, max(at_once, count // 10 // at_once * at_once), fresh),
    ]
    return Row(f"store: append, FULL, {at_once} at once", contestants, peers.absent if has_targets else ())


def _others(peers: Peers, at_once: int, count: int, fresh: Callable[[], Path]) -> Iterator[Contestant]:
    nats, postgres = peers.nats, peers.postgres
    if find_spec("aiosqlite"):
        yield rival(AIOSQLITE, lambda: uvloop.run(_aiosqlite(fresh(), count, at_once)))
    if at_once == 1 and find_spec("eventsourcing"):
        yield rival(EVENTSOURCING, lambda: _eventsourcing(fresh(), count))
    if nats is not None:
        yield rival(JETSTREAM, lambda: _jetstream(nats, count, at_once))
    if postgres is not None:
        from ksi.bench.postgres import each  # an extra

        connections = min(at_once, POSTGRES_CONNECTIONS)
        yield rival(POSTGRES, lambda: each(postgres, RAW, count=count, connections=connections))


def _bare(path: Path, count: int, at_once: int) -> Sample:
    """What no log on SQLite can do without: a row of ready bytes under an integer key, a commit for each batch."""
    connection = apsw.Connection(str(path))
    schema.set_pragmas(connection, journal_mode="wal", synchronous="full")
    connection.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    insert = "INSERT INTO log VALUES " + ",".join(["(?,?)"] * at_once)  # noqa: S608  # nothing comes from outside
    watch = Stopwatch()
    for start in range(0, count, at_once):
        values = [value for position in range(start, start + at_once) for value in (position, RAW)]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, values)
        connection.execute("COMMIT")
    sample = watch.sample(count)
    connection.close()
    return sample


def _same_tables(path: Path, count: int, at_once: int) -> Sample:
    """A commit's ready rows in the tables that a commit of the log touches."""
    connection = schema.connect_writer(path, "full", None)
    log = "INSERT INTO log VALUES " + ",".join(["(?,0,?)"] * at_once)  # noqa: S608  # as above
    ids = "INSERT INTO ids(id, pos) VALUES " + ",".join(["(?,?)"] * at_once)  # noqa: S608  # as above
    watch = Stopwatch()
    for start in range(0, count, at_once):
        positions = range(start + 1, start + at_once + 1)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(log, [value for position in positions for value in (position, RAW)])
        connection.execute(ids, [value for position in positions for value in (position.to_bytes(16, "big"), position)])
        connection.execute("INSERT INTO commits VALUES (?,?,?)", (start + 1, start + at_once, bytes(32)))
        connection.execute("COMMIT")
    sample = watch.sample(count)
    connection.close()
    return sample


async def ksi(path: Path, count: int, at_once: int) -> Sample:
    async with SqliteEventStore.open(path) as store:

        async def appender(number: int) -> None:
            for _ in range(count // at_once):
                await store.append(f"item/{number}", [NewEvent(name="bench:item_was_put", data=RAW)])

        watch = Stopwatch()
        await asyncio.gather(*[appender(number) for number in range(at_once)])
        return watch.sample(count // at_once * at_once)


async def _aiosqlite(path: Path, count: int, at_once: int) -> Sample:
    import aiosqlite  # an extra

    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        lock = asyncio.Lock()

        async def appender() -> None:
            for _ in range(count // at_once):
                async with lock:
                    await connection.execute("INSERT INTO log(body) VALUES (?)", (RAW,))
                    await connection.commit()

        watch = Stopwatch()
        await asyncio.gather(*[appender() for _ in range(at_once)])
        return watch.sample(count)


def _eventsourcing(path: Path, count: int) -> Sample:
    from ksi.bench import peer_eventsourcing  # an extra

    with peer_eventsourcing.application(path) as application:
        thing = peer_eventsourcing.Thing()
        watch = Stopwatch()
        for number in range(count):
            thing.put(**item(number))
            application.save(thing)
        return watch.sample(count)


def _jetstream(server: NatsServer, count: int, at_once: int) -> Sample:
    watch = Stopwatch()
    took = uvloop.run(peer_clients.jetstream(server.url, RAW, at_once=at_once, count=count))
    return Sample(count / took, watch.sample(count).cpu_us)
