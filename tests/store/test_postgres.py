"""The log on PostgreSQL keeps the contract: as an owner, beside others, and with next to nothing in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ksi.core.ports import Journal
from ksi.store import idindex, postgres_log, postgres_reading, shelf, tail, upkeep
from ksi.store.postgres_log import PostgresEventStore
from ksi.testing.contracts import EventLogContract


class TestPostgresEventStore(EventLogContract):
    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Journal]:
        async with PostgresEventStore.open(url) as store:
            yield store
            if not store.closed:
                assert await store.verify() == []


class TestPostgresEventStoreThatShares(EventLogContract):
    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Journal]:
        async with PostgresEventStore.open(url, access="share") as store:
            yield store
            if not store.closed:
                assert await store.verify() == []


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that rows, ids, heads and views are asked for in the database all the time."""
    monkeypatch.setattr(tail, "ROWS_MAX", 2)
    monkeypatch.setattr(idindex, "IDS_MAX", 4)
    monkeypatch.setattr(postgres_log, "HEADS_MAX", 1)
    monkeypatch.setattr(postgres_reading, "COMMITS_MAX", 3)
    monkeypatch.setattr(postgres_reading, "RECENT", 2)
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 1)
    monkeypatch.setattr(shelf, "RECENT_MAX", 1)


@pytest.mark.usefixtures("small_memory")
class TestPostgresEventStoreWithSmallMemory(EventLogContract):
    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Journal]:
        async with PostgresEventStore.open(url, durability="normal") as store:
            yield store
            if not store.closed:
                assert await store.verify() == []
