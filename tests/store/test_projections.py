"""Views that are folded behind, on disk: what a crash leaves at any moment is gone on with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import apsw
import pytest

from ksi.core.events import Position
from ksi.store import disk_log, upkeep
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added
from ksi.testing.projection_contracts import Sums, forgiving

SUBSCRIBER = "projection/sums"


@pytest.fixture
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a log that writes its views all the time."""
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 1)
    return tmp_path / "events.db"


@asynccontextmanager
async def after_a_crash(path: Path, folder: Path) -> AsyncIterator[SqliteEventStore]:
    """The log as a process that is killed now would leave it, opened again."""
    _copy(path, folder)
    async with SqliteEventStore.open(folder / path.name, durability="normal") as again:
        yield again


def _copy(path: Path, folder: Path) -> None:
    folder.mkdir()
    for end in ("-head", "", "-wal"):  # the witness must not have seen more than what is copied
        shutil.copy(path.with_name(path.name + end), folder)


async def sums(store: SqliteEventStore) -> list[Counter]:
    """What the view shows when it is at the head."""
    head = await store.head()
    assert head is not None
    await store.projections.wait_for("sums", head, timeout=10)
    return list((await store.view(Sums).scan()).records)


async def test_a_crash_between_two_writes_loses_and_doubles_nothing(store_path: Path, tmp_path: Path) -> None:
    async with SqliteEventStore.open(store_path, durability="normal") as store:
        store.register(CounterView)
        store.register(Sums)
        for n in range(1, 25):
            appended = asyncio.gather(*(store.append(f"counter/{key}", [added(1)] * n) for key in range(40)))
            for _ in range(n):
                await asyncio.sleep(0)
            async with after_a_crash(store_path, tmp_path / f"crash{n}") as again:
                again.register(CounterView)
                again.register(Sums)
                if await again.head() is not None:
                    assert await sums(again) == list((await again.view(CounterView).scan()).records)
            await appended


async def test_a_crash_while_a_parked_event_is_tried_again_begins_the_view_anew(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteEventStore.open(store_path, durability="normal") as store:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        assert await sums(store) == [Counter("a", 3)]
        parked = await store.parked_of(SUBSCRIBER)
        event = await store.at(Position(2))
        assert event is not None
        await store.views_written()
        await parked.doubt(event)  # and there the process ends
        monkeypatch.setattr(Sums, "apply", forgiving)
        async with after_a_crash(store_path, tmp_path / "crash") as again:
            again.register(Sums)
            assert await sums(again) == [Counter("a", 1003)]
            assert await again.parked(SUBSCRIBER) == []


async def test_a_projection_that_can_park_no_more_stands_still_and_says_why(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ksi.store.parked.PARKED_MAX", 2)
    monkeypatch.setattr("ksi.store.behind.RESTART_DELAY", 0.01)
    async with SqliteEventStore.open(store_path, durability="normal") as store:
        store.register(Sums)
        await store.append("counter/a", [added(1), *[added("poison")] * 3, added(2)])
        async with asyncio.timeout(10):
            while (status := (await store.projections.status("sums"))[0]).state != "failed":  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)
        assert (status.parked, status.position, status.problem) == (
            2,
            3,
            "what 'projection/sums' has parked is at its limit of 2",
        )
        await store.drop_parked(SUBSCRIBER, Position(2))
        assert await sums(store) == [Counter("a", 3)]
        assert (await store.projections.status("sums"))[0].state == "live"


async def test_a_rebuild_that_only_shows_what_would_differ_leaves_no_table_behind(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_log, "CHANGES_MAX", 1)
    async with SqliteEventStore.open(store_path, durability="normal") as store:
        store.register(CounterView)
        await store.append("counter/a", [added(1)])
        await store.views_written()
        before = tables(store_path)
        assert (await store.projections.rebuild("counters", swap=False)).records == 1
        await store.views_written()
    assert tables(store_path) == before


def tables(path: Path) -> set[str]:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        return {name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
