"""The log on SQLite keeps the contract, with all in memory first and with next to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.core.ports import Journal, Outcome, Unit
from ksi.store import idindex, shelf, sqlite_log, tail, upkeep, writer
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.contracts import EventLogContract
from ksi.testing.counters import Counter, CounterView, added, request, written


class TestSqliteEventStore(EventLogContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Journal]:
        async with SqliteEventStore.open(tmp_path / "events.db") as store:
            yield store
            if not store.closed:
                assert await store.verify() == []


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that keys, ids, heads and views go to disk and come back all the time."""
    monkeypatch.setattr(tail, "ROWS_MAX", 4)
    monkeypatch.setattr(tail, "NEWEST", 1)
    monkeypatch.setattr(idindex, "IDS_MAX", 4)
    monkeypatch.setattr(sqlite_log, "HEADS_MAX", 1)
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 1)
    monkeypatch.setattr(shelf, "RECENT_MAX", 1)
    monkeypatch.setattr(writer, "PAGES_MAX", 1)


@pytest.mark.usefixtures("small_memory")
class TestSqliteEventStoreWithSmallMemory(EventLogContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Journal]:
        async with SqliteEventStore.open(tmp_path / "events.db", durability="normal") as store:
            yield store
            if not store.closed:
                assert await store.verify() == []


class Renewed(CounterView):
    version = 2


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("views", [(CounterView, CounterView), (CounterView, Renewed)])
async def test_a_view_that_is_registered_again_while_it_is_written_counts_nothing_twice(
    tmp_path: Path, views: tuple[type[CounterView], type[CounterView]]
) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db", durability="normal") as store:
        store.register(CounterView)
        for n in range(1, 60):
            await store.append("counter/a", [added(1)])
            view = views[n % 2]
            store.unregister(view)
            store.register(view)
            assert await store.view(view).get("a") == Counter("a", n)
        assert not store.is_read_only


async def test_keys_of_runs_with_requests_in_requests_fit_the_log(tmp_path: Path) -> None:
    """Run and cause of the root have one number, and lead first to different rows."""
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        root = request("a:a")
        nested = request("b:b", cause=root.event_id, correlation=root.correlation_id)
        deeper = request("c:c", cause=nested.event_id, correlation=root.correlation_id)
        await written(store, Unit(origin=root, request=True))
        for origin in (deeper, nested):
            await written(store, Unit(origin=origin, request=True, outcome=Outcome(True, b"{}")))
        await written(store, Unit(origin=root, outcome=Outcome(True, b"{}")))
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
