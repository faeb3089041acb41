"""An inline view that is registered far behind the head comes to it in slices, and nobody reads it before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.core.errors import InternalError, NotFoundError, StoreClosedError
from ksi.core.events import StreamAppend
from ksi.core.ports import Journal
from ksi.store import upkeep, viewed
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, submitted, written


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewed, "FOLD_AT_ONCE", 10)
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 7)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    opened = InMemoryEventStore() if request.param == "memory" else SqliteEventStore.open(tmp_path / "events.db")
    async with opened as store:
        await fill(store)
        yield store


async def fill(store: Journal, events: int = 600) -> None:
    await store.append_all([StreamAppend(f"counter/{n % 20}", [added()]) for n in range(events)])


async def test_readers_wait_until_it_is_there_and_commits_do_not(store: Journal) -> None:
    store.register(CounterView)
    reader = store.view(CounterView)
    waiting = asyncio.ensure_future(reader.get("3"))
    scanned = asyncio.ensure_future(reader.scan(limit=50))
    await asyncio.sleep(0)
    (status,) = await store.projections.status()
    assert (status.state, waiting.done()) == ("catching_up", False)
    units = [submitted(store, command("counter/3")) for _ in range(5)]
    found = await waiting
    assert found is not None
    assert found.total >= 30
    await asyncio.gather(*units)
    assert len((await scanned).records) == 20
    assert await reader.get("3") == Counter("3", 35)
    await written(store, command("counter/3"))
    assert await reader.get("3") == Counter("3", 36)
    (status,) = await store.projections.status()
    assert (status.state, status.lag) == ("inline", 0)


async def test_units_under_way_when_it_arrives_count_once(store: Journal) -> None:
    store.register(CounterView)
    reader, sent = store.view(CounterView), 0
    arrived = asyncio.ensure_future(reader.get("3"))
    units = []
    while not arrived.done():
        units.append(submitted(store, command("counter/3")))
        sent += 1
        await asyncio.sleep(0)
    await asyncio.gather(*units)
    assert await reader.get("3") == Counter("3", 30 + sent)


async def test_a_fact_that_it_can_not_take_is_the_end_of_its_readers(store: Journal) -> None:
    await store.append("counter/a", [added("poison")])
    store.register(CounterView)
    with pytest.raises(InternalError):
        await store.view(CounterView).get("3")
    (status,) = await store.projections.status()
    assert status.state == "failed"
    await store.append("counter/a", [added()])  # commits go on


async def test_who_waits_for_a_view_that_goes_is_told_so(store: Journal) -> None:
    store.register(CounterView)
    waiting = asyncio.ensure_future(store.view(CounterView).get("3"))
    await asyncio.sleep(0)
    store.unregister(CounterView)
    with pytest.raises(NotFoundError):
        await waiting
    store.register(CounterView)
    waiting = asyncio.ensure_future(store.view(CounterView).get("3"))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreClosedError):
        await waiting


async def test_it_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await fill(store, 3000)
        store.register(CounterView)
        for _ in range(10):  # a page in each turn
            await asyncio.sleep(0)
        assert 0 < (await store.projections.status())[0].position < 3000
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert (await store.projections.status())[0].position > 0
        assert await store.view(CounterView).get("3") == Counter("3", 150)
