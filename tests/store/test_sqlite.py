"""The log on SQLite keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.core.ports import Journal
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.contracts import EventLogContract


class TestSqliteEventStore(EventLogContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Journal]:
        async with SqliteEventStore.open(tmp_path / "events.db") as store:
            yield store
