"""A copy of a log in PostgreSQL goes into a database or into a home, and so does one of a log on SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ksi.core.errors import ConflictError, LogDamagedError, UnsupportedError
from ksi.core.events import NewEvent, Position
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.store import postgres_backup, postgres_reading
from ksi.store.backup import restore
from ksi.store.keyfile import keys_of
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import CounterView, added, command, listed, request, written
from ksi.testing.postgres import PostgresServer
from tests.store.images import EVERYTHING, holding

ALICE = "person/alice"


async def filled(log: Journal) -> dict[str, Any]:
    """A log with a bit of everything; what it shows."""
    log.register(CounterView)
    await log.append("counter/a", [added(), added(2, subject=ALICE)])
    await written(log, command("counter/b"))
    await written(log, Unit(origin=request(), request=True))
    later = request()
    await written(log, Unit(origin=later, request=True, entries=[Entry(stream="n/1", name="n:n", data=b"{}")]))
    await written(log, Unit(origin=later, outcome=Outcome(True, b"{}")))
    await log.fork(Position(2), "exp")
    await log.append("counter/a", [added(3)], branch="exp")
    await log.append_all([], checkpoint=("mailer", Position(2)))
    return await shown(log)


async def shown(log: Journal) -> dict[str, Any]:
    log.register(CounterView)
    return {
        "main": await listed(log.read_all(EVERYTHING)),
        "exp": await listed(log.read_all(EVERYTHING, branch="exp")),
        "open": [known.request.event_id async for known in log.open_requests()],
        "counters": (await log.view(CounterView).scan()).records,
        "mailer": await log.checkpoint("mailer"),
        "problems": await log.verify(),
    }


async def goes_on(log: Journal, event: NewEvent) -> None:
    version = await log.version("counter/a")
    assert (await log.append("counter/a", [event], expected_version=version)).versions == (version + 1,)
    assert await log.verify() == []


@pytest.mark.parametrize("pages", ["one", "many"])
async def test_a_copy_goes_into_a_home_and_into_a_database_and_is_the_same(
    pages: str, tmp_path: Path, postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pages == "many":
        monkeypatch.setattr(postgres_reading, "COMMITS_MAX", 3)
        monkeypatch.setattr(postgres_reading, "RECENT", 2)
        monkeypatch.setattr(postgres_backup, "PAGE", 2)
    async with PostgresEventStore.open(url, keys=tmp_path / "keys") as store:
        before = await filled(store)
        made = await store.backup(tmp_path / "copy.db", keys=tmp_path / "copy.keys")
        assert (made.position, made.bytes) == (await store.head(branch="exp"), (tmp_path / "copy.db").stat().st_size)
        with pytest.raises(ConflictError):
            await store.backup(tmp_path / "copy.db")
    assert before["problems"] == []
    restore(tmp_path / "copy.db", tmp_path / "home" / "events.db", tmp_path / "copy.keys")
    async with SqliteEventStore.open(tmp_path / "home" / "events.db") as in_home:
        assert await shown(in_home) == before
        await goes_on(in_home, added())
    with pytest.raises(ConflictError):
        postgres_backup.restore(tmp_path / "copy.db", url, tmp_path / "again" / "events.db")
    postgres.execute("DROP SCHEMA ksi CASCADE")
    log = tmp_path / "again" / "events.db"
    log.parent.mkdir()
    restored = postgres_backup.restore(tmp_path / "copy.db", url, log, tmp_path / "copy.keys")
    assert restored.position == made.position
    async with PostgresEventStore.open(url, keys=keys_of(log)) as in_database:
        assert await shown(in_database) == before
        await goes_on(in_database, added())


async def test_a_log_on_sqlite_goes_into_a_database(tmp_path: Path, url: str) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        before = await filled(store)
        await store.backup(tmp_path / "copy.db")
    postgres_backup.restore(tmp_path / "copy.db", url, tmp_path / "events.db")
    async with PostgresEventStore.open(url, keys=keys_of(tmp_path / "events.db")) as in_database:
        assert await shown(in_database) == before


async def test_of_a_log_that_is_damaged_there_is_no_copy(tmp_path: Path, postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        with pytest.raises(UnsupportedError):
            await store.backup(tmp_path / "copy.db", keys=tmp_path / "keys")
        await filled(store)
        postgres.execute(
            "UPDATE ksi.log SET body = body || '\\x00'::bytea WHERE last = (SELECT min(last) FROM ksi.log)"
        )
        with pytest.raises(LogDamagedError):
            await store.backup(tmp_path / "copy.db")
    assert holding(tmp_path, "") == []
