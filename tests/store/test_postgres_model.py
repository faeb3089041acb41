"""The log on PostgreSQL does what the model does: when it is closed and opened again, and with two writers in turn."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from ksi.core.ports import Journal
from ksi.store import idindex, postgres_reading, tail, upkeep
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.postgres_schema import Access
from ksi.testing.counters import CounterView
from ksi.testing.postgres import PostgresServer
from tests.store.test_model import LogMachine

FEW = settings(max_examples=8, stateful_step_count=15, deadline=None, database=None)


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "ROWS_MAX", 5)
    monkeypatch.setattr(idindex, "IDS_MAX", 8)
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 3)
    monkeypatch.setattr(postgres_reading, "COMMITS_MAX", 3)
    monkeypatch.setattr(postgres_reading, "RECENT", 2)


@pytest.mark.parametrize("access", ["own", "share"])
def test_it_does_what_the_model_does(postgres: PostgresServer, url: str, access: Access) -> None:
    class Machine(LogMachine):
        async def make(self) -> Journal:
            postgres.execute("DROP SCHEMA IF EXISTS ksi CASCADE")
            return await self._opened()

        async def _opened(self) -> Journal:
            return await self.stack.enter_async_context(PostgresEventStore.open(url, access=access))

        @rule()
        def restart(self) -> None:
            self.run(self.store.close())
            self.store = self.run(self._opened())
            self.store.register(CounterView)

    run_state_machine_as_test(Machine, settings=FEW)


def test_two_writers_in_turn_do_what_the_model_does(postgres: PostgresServer, url: str) -> None:
    class Machine(LogMachine):
        async def make(self) -> Journal:
            postgres.execute("DROP SCHEMA IF EXISTS ksi CASCADE")
            self.other = await self._opened()
            self.other.register(CounterView)
            return await self._opened()

        async def _opened(self) -> PostgresEventStore:
            return await self.stack.enter_async_context(PostgresEventStore.open(url, access="share"))

        @rule()
        def change_places(self) -> None:
            self.store, self.other = self.other, self.store
            self.run(self.store.catch_up())

    run_state_machine_as_test(Machine, settings=FEW)
