"""The log in memory keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ksi.core.ports import Journal
from ksi.store.memory import InMemoryEventStore
from ksi.testing.contracts import EventLogContract


class TestInMemoryEventStore(EventLogContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Journal]:
        async with InMemoryEventStore() as store:
            yield store
