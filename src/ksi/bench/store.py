"""The log alone: FULL durability, 64 appenders, beside bare SQLite batches and a commit for each event."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as counter
from pathlib import Path

import apsw
import msgspec
import uvloop

from ksi.bench.measure import Contestant, Row, Sample
from ksi.bench.plugin import item
from ksi.core.events import NewEvent
from ksi.store.sqlite_log import SqliteEventStore

APPENDERS = 64
RAW = msgspec.json.encode(item(1))
_number = counter()


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    def fresh() -> Path:
        return directory / f"{next(_number)}.db"

    contestants = [
        Contestant("bare apsw, batches of 64 ready rows", lambda: _bare(fresh(), count)),
        Contestant("KSI append", lambda: uvloop.run(_ksi(fresh(), count)), 0.3),
    ]
    absent = []
    if importlib.util.find_spec("aiosqlite"):
        contestants.append(Contestant("aiosqlite, a commit each", lambda: uvloop.run(_aiosqlite(fresh(), count // 30))))
    else:
        absent.append("aiosqlite")
    found = [Row(f"store: append, FULL, {APPENDERS} at once", contestants, absent), _reading(directory, count)]
    if not importlib.util.find_spec("psycopg"):
        absent.append("psycopg")
        yield found
        return
    from ksi.bench import postgres  # an extra

    with postgres.rows(RAW, count=count // 4) as more:
        yield [*found, *more]


def _reading(directory: Path, count: int) -> Row:
    path = directory / "reading.db"
    uvloop.run(_ksi(path, count))
    return Row(
        "store: replay into recorded events",
        [
            Contestant("bare SELECT and msgpack decode", lambda: _select(path)),
            Contestant("KSI read_all", lambda: uvloop.run(_replay(path)), 0.6),
        ],
    )


def _bare(path: Path, count: int) -> Sample:
    """What no log on SQLite can do without: a row of ready bytes under an integer key, a commit for each batch."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    insert = "INSERT INTO log VALUES " + ",".join(["(?,?)"] * APPENDERS)  # noqa: S608  # nothing comes from outside
    begin, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, APPENDERS):
        values = [value for position in range(start, start + APPENDERS) for value in (position, RAW)]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, values)
        connection.execute("COMMIT")
    sample = _sample(count, begin, cpu)
    connection.close()
    return sample


async def _ksi(path: Path, count: int) -> Sample:
    async with SqliteEventStore.open(path) as store:

        async def appender(number: int) -> None:
            for _ in range(count // APPENDERS):
                await store.append(f"item/{number}", [NewEvent(name="bench:item_was_put", data=RAW)])

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[appender(number) for number in range(APPENDERS)])
        return _sample(count, begin, cpu)


async def _aiosqlite(path: Path, count: int) -> Sample:
    import aiosqlite  # an extra of the bench

    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        lock = asyncio.Lock()

        async def appender() -> None:
            for _ in range(count // APPENDERS):
                async with lock:
                    await connection.execute("INSERT INTO log(body) VALUES (?)", (RAW,))
                    await connection.commit()

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[appender() for _ in range(APPENDERS)])
        return _sample(count, begin, cpu)


def _select(path: Path) -> Sample:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    decode = msgspec.msgpack.Decoder().decode
    begin, cpu = time.perf_counter(), time.process_time()
    count = 0
    for (body,) in connection.execute("SELECT body FROM log ORDER BY pos"):
        decode(body[:-16])
        count += 1
    return _sample(count, begin, cpu)


async def _replay(path: Path) -> Sample:
    async with SqliteEventStore.open(path) as store:
        begin, cpu = time.perf_counter(), time.process_time()
        count = 0
        async for _ in store.read_all():
            count += 1
        return _sample(count, begin, cpu)


def _sample(count: int, begin: float, cpu: float) -> Sample:
    return Sample(count / (time.perf_counter() - begin), (time.process_time() - cpu) / count * 1e6)
