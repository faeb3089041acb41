"""Eight processes append to one log on PostgreSQL; whoever follows it misses nothing, and has nothing twice."""

from __future__ import annotations

import pytest

from ksi.store.postgres_log import PostgresEventStore
from ksi.testing.postgres import PostgresServer
from tests.store.crowd import LOCK, NOTIFY, ROLL_BACK, SLEEP, crowd, without


@pytest.fixture
async def log(postgres: PostgresServer, url: str) -> str:
    """A log whose commits take their time."""
    async with PostgresEventStore.open(url):
        pass
    postgres.execute(SLEEP)
    return url


async def test_followers_of_eight_writers_miss_nothing_though_all_goes_wrong(
    postgres: PostgresServer, log: str
) -> None:
    postgres.execute(ROLL_BACK)
    without(postgres, NOTIFY)
    assert await crowd(postgres, log, writers=8, units=8, kill_every=0.4) == []
    async with PostgresEventStore.open(log, access="share") as store:
        assert await store.verify() == []


async def test_without_the_lock_it_would_go_wrong(postgres: PostgresServer, log: str) -> None:
    without(postgres, LOCK)
    assert await crowd(postgres, log, writers=4, units=60, timeout=30)


@pytest.mark.soak
async def test_followers_of_eight_busy_writers_miss_nothing(postgres: PostgresServer, log: str) -> None:
    postgres.execute(ROLL_BACK)
    without(postgres, NOTIFY)
    assert await crowd(postgres, log, writers=8, units=1_000, kill_every=0.1, timeout=900) == []
    async with PostgresEventStore.open(log, access="share") as store:
        assert await store.verify() == []
