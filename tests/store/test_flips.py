"""One flipped bit, anywhere in the file: the log refuses to open, says what is wrong, or makes it right again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from ksi.core.errors import LogDamagedError, UnavailableError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.ports import Outcome, Unit
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, listed, request, written

TRUTH = [
    ("log", "pos"),
    ("log", "body"),
    ("ids", "id"),
    ("ids", "pos"),
    ("ids", "done"),
    ("open", "pos"),
    ("open", "id"),
    ("commits", "at"),
    ("commits", "last"),
    ("commits", "hash"),
]
KEYS = [("keys", "key"), ("keys", "at"), ("keys", "posting"), ("streams", "id"), ("streams", "name"), ("names", "name")]


async def filled(path: Path) -> None:
    """A log with something in every table."""
    async with SqliteEventStore.open(path) as store:
        for number in range(6):
            await written(store, command(f"counter/{number % 3}"))
        slow, never = request(), request()
        await written(store, Unit(origin=slow, request=True))
        await written(store, Unit(origin=slow, outcome=Outcome(True, b"{}")))
        await written(store, Unit(origin=never, request=True))
        await store.append("counter/0", [added(tags=frozenset({"agent:a1"}))])


def flip(path: Path, table: str, column: str) -> None:
    """Change the last bit of a value in the middle of the table."""
    connection = apsw.Connection(str(path))
    rows = list(connection.execute(f'SELECT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL'))
    (value,) = rows[len(rows) // 2]
    connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ? WHERE "{column}" = ?', (flipped(value), value))
    connection.close()


def flipped(value: Any) -> Any:
    match value:
        case int():
            return value ^ 1
        case str():
            return value[:-1] + chr(ord(value[-1]) ^ 1)
    return value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(("table", "column"), TRUTH)
async def test_a_flipped_bit_of_the_truth_is_named(tmp_path: Path, table: str, column: str) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    flip(path, table, column)
    try:
        async with SqliteEventStore.open(path) as store:
            assert await store.verify() != []
    except LogDamagedError:
        pass  # it was seen before anything was served


@pytest.mark.parametrize(("table", "column"), KEYS)
async def test_flipped_keys_are_named_and_written_anew_at_the_next_start(
    tmp_path: Path, table: str, column: str
) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    flip(path, table, column)
    async with SqliteEventStore.open(path) as store:
        (problem,) = await store.verify()
        assert "keys" in problem
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
        assert len(await listed(store.read_all([Filter(names=("counter:added",))]))) == 7
        assert [event.version for event in await listed(store.read_stream("counter/0"))] == [1, 2, 3]


@pytest.mark.parametrize("key", ["flushed", "verified", "index"])
async def test_a_flipped_mark_of_what_is_done_does_no_harm_or_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = value - 1 WHERE key = ?", (key,))
    connection.close()
    async with SqliteEventStore.open(path) as store:
        problems = await store.verify()
        if not problems:
            await written(store, command())
            assert len(await listed(store.read_all([Filter(names=("counter:added",))]))) == 8
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []


async def test_keys_of_an_older_set_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM keys; DELETE FROM names; DELETE FROM meta WHERE key = 'index'")
    connection.close()
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
        requests = await listed(store.read_all([Filter(names=("counter:add",), kinds=("request",))]))
        assert len(requests) == 8


# ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────────
VIEW = "view:counters"
ENTRY = [("views", "name"), ("views", "version"), ("views", "shape"), ("views", "pos")]
RECORDS = [(VIEW, "place"), (VIEW, "data"), (VIEW, "by:by_total")]
WHOLE = [Counter("0", 3), Counter("1", 2), Counter("2", 2)]


async def with_view(path: Path) -> None:
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
    await filled(path)
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)


async def mended(store: SqliteEventStore) -> list[Counter]:
    """All records, when the view is built again."""
    while True:
        try:
            return list((await store.view(CounterView).scan()).records)
        except UnavailableError:
            await asyncio.gather(*store.projections._mending)


@pytest.mark.parametrize(("table", "column"), RECORDS)
@pytest.mark.parametrize("index", [None, "by_total"])
async def test_a_flipped_record_is_not_served_and_its_view_is_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, table: str, column: str, index: str | None
) -> None:
    path = tmp_path / "events.db"
    await with_view(path)
    flip(path, table, column)
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        with pytest.raises(UnavailableError):
            await store.view(CounterView).scan(index)
        assert await mended(store) == WHOLE
        assert "built again" in caplog.text
        await written(store, command("counter/1"))
        assert await store.view(CounterView).get("1") == Counter("1", 3)
        assert await store.verify() == []
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert await store.view(CounterView).get("1") == Counter("1", 3)


@pytest.mark.parametrize(("table", "column"), RECORDS + ENTRY)
async def test_verify_names_a_view_that_is_not_as_it_was_written(tmp_path: Path, table: str, column: str) -> None:
    path = tmp_path / "events.db"
    await with_view(path)
    flip(path, table, column)
    async with SqliteEventStore.open(path) as store:
        said = await store.verify()
        # The entry of a table that there is not is forgotten at once.
        assert len(said) == (column != "name")
        assert all("the view 'counter" in problem for problem in said)
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        await store.verify()
        assert await mended(store) == WHOLE
        await written(store, command("counter/1"))
        assert await store.view(CounterView).get("1") == Counter("1", 3)


async def test_verify_names_a_view_that_has_lost_a_record(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await with_view(path)
    connection = apsw.Connection(str(path))
    connection.execute(f'DELETE FROM "{VIEW}" WHERE place = (SELECT max(place) FROM "{VIEW}")')
    connection.close()
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert await store.verify() == ["the view 'counters' is not as it was written: it is built again from the log"]
        await asyncio.gather(*store.projections._mending)
        assert await mended(store) == WHOLE


async def test_the_records_of_a_view_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    class Odd(CounterView):
        name = "odd"

        def apply(self, writer: Any, event: RecordedEvent) -> None:
            if event.version % 2:
                super().apply(writer, event)
            else:
                writer.delete(event.stream.partition("/")[2])

    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        store.register(Odd)
        for number in range(30):
            await written(store, command(f"counter/{number % 7}"))
            if number % 4 == 0:
                await store.views_written()
                assert await store.verify() == []
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []


async def test_a_command_that_would_count_on_a_flipped_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await with_view(path)
    flip(path, VIEW, "data")  # of counter/1, the one in the middle
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        with pytest.raises(UnavailableError):
            await written(store, command("counter/1"))
        assert await mended(store) == WHOLE
        assert (await written(store, command("counter/1"))).versions == (3,)


async def test_every_table_is_flipped_here(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await with_view(path)
    connection = apsw.Connection(str(path))
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    # Where a subscriber stands is said by nobody else. Snapshots, where there are some: test_snapshots.
    assert tables - {"checkpoints"} == {table for table, _ in TRUTH + KEYS + ENTRY + RECORDS} | {"meta"}
