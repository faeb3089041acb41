"""A log of an older version is brought up, whole or not at all; one of a newer version is refused and left alone."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from ksi.core.errors import LogDamagedError, LogVersionError
from ksi.core.events import NewEvent
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.schema import STEPS, bring_up, version_of
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added
from ksi.testing.postgres import PostgresServer

NEXT = (*STEPS, "CREATE TABLE extra(x); INSERT INTO extra SELECT count(*) FROM log")


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A log of this version, with an event."""
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as log:
        await log.append("ship/1", [NewEvent(name="ship:sailed", data={"to": "Rhodes"})])
    return path


def test_an_older_log_takes_the_steps_that_it_lacks_and_keeps_what_it_holds(file: Path) -> None:
    connection = apsw.Connection(str(file))
    bring_up(connection, version_of(connection), NEXT)
    bring_up(connection, version_of(connection), NEXT)
    assert (version_of(connection), connection.execute("SELECT x FROM extra").get) == (len(NEXT), 1)
    connection.close()


def test_a_step_that_fails_leaves_the_log_as_it_was(file: Path) -> None:
    connection = apsw.Connection(str(file))
    with pytest.raises(apsw.SQLError):
        bring_up(connection, version_of(connection), (*NEXT, "CREATE TABLE extra(x)"))
    assert version_of(connection) == len(STEPS)
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'extra'").fetchall() == []
    connection.close()


def content(file: Path) -> bytes:
    return file.read_bytes()


async def test_a_newer_log_is_refused_with_both_versions_and_not_changed(file: Path) -> None:
    connection = apsw.Connection(str(file))
    connection.execute(f"PRAGMA user_version={len(STEPS) + 1}; PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    before = content(file)
    with pytest.raises(LogVersionError) as caught:
        async with SqliteEventStore.open(file):
            pass
    assert (caught.value.found, caught.value.known) == (len(STEPS) + 1, len(STEPS))
    assert content(file) == before


async def test_the_database_of_another_program_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    with pytest.raises(LogDamagedError):
        async with SqliteEventStore.open(path):
            pass


async def test_a_database_of_before_read_models_were_unlogged_is_brought_up_and_has_them_anew(
    postgres: PostgresServer, url: str
) -> None:
    async with PostgresEventStore.open(url) as log:
        log.register(CounterView)
        await log.append("counter/a", [added(3)])
    for statement in (
        "UPDATE ksi.meta SET value = '1' WHERE key = 'version'",
        "ALTER TABLE ksi.views SET LOGGED",
        'ALTER TABLE ksi."view:counters" SET LOGGED',
        "CREATE TABLE ksi.snapshots(fold bytea)",
    ):
        postgres.execute(statement)
    async with PostgresEventStore.open(url) as log:
        log.register(CounterView)
        assert await log.view(CounterView).get("a") == Counter("a", 3)
        await log.views_written()
        assert await log.verify() == []
    kinds = "SELECT relname FROM pg_class WHERE relnamespace = 'ksi'::regnamespace AND relpersistence = 'u'"
    assert {name for (name,) in postgres.execute(f"{kinds} AND relkind = 'r'")} == {"views", "view:counters"}
    assert postgres.execute("SELECT convert_from(value, 'UTF8') FROM ksi.meta WHERE key = 'version'") == [("2",)]
