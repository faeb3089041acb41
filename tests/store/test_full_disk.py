"""A disk that takes no more makes the log read-only, and nothing is lost or half done."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksi.core.errors import UnavailableError
from ksi.core.home import said_of_disk
from ksi.core.threads import SystemThreads
from ksi.store.sqlite_log import PROBE_PAUSE, SqliteEventStore
from ksi.testing.counters import Counter, CounterView, command, listed, submitted, written
from ksi.testing.loop import ManualClock


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """No file grows beyond the size of the WAL and ``room`` bytes: the system's own limit, so real errors come back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_log_that_can_not_even_be_opened_says_which_disk_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path):
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, said in ((0, f"{path}-lock: File too large"), (100, f"{path}: disk I/O error")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(UnavailableError, match=said):
                async with SqliteEventStore.open(path):
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []


def test_of_a_full_disk_an_error_says_so() -> None:
    assert said_of_disk(Path("/proc/version")) == "; its disk is full (0 bytes are free): make room, and start again"
    assert said_of_disk(Path("/nowhere/at/all")) == ""


async def fill(store: SqliteEventStore, units: int = 300) -> tuple[int, int]:
    """How many of that many units were acknowledged, and how many refused as unavailable."""
    ends = await asyncio.gather(*(submitted(store, command()) for _ in range(units)), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, UnavailableError)]
    stored = [end for end in ends if not isinstance(end, BaseException)]
    assert len(refused) + len(stored) == units
    return len(stored), len(refused)


async def test_units_fail_whole_and_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    path, clock, threads = tmp_path / "events.db", ManualClock(), SystemThreads()
    async with SqliteEventStore.open(path, clock=clock, threads=threads) as store:
        store.register(CounterView)
        await fill(store, 10)
        refused = command()
        with full_disk(path, room=20_000):
            first = submitted(store, refused)
            assert await fill(store) == (0, 300)
            with pytest.raises(UnavailableError):
                await first
            assert store.is_read_only
            assert await store.view(CounterView).get("a") == Counter("a", 10)
            assert len(await listed(store.read_all())) == 10
            clock.advance(PROBE_PAUSE)
            with pytest.raises(UnavailableError):  # triggers a probe, which fails too
                await written(store, command())
            await threads.run("writer", int)  # behind the probe
        assert await store.verify() == []
        clock.advance(PROBE_PAUSE)
        with pytest.raises(UnavailableError):  # triggers the probe that ends it
            await written(store, command())
        await threads.run("writer", int)
        assert (await written(store, refused)).versions == (11,)  # a retry under the same id
        assert await store.view(CounterView).get("a") == Counter("a", 11)
    threads.close()
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
        assert await store.version("counter/a") == 11


async def test_what_is_under_way_behind_the_failed_batch_fails_too(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path, clock=ManualClock()) as store:
        await fill(store, 10)
        with full_disk(path, room=20_000):
            first = asyncio.gather(*(submitted(store, command()) for _ in range(200)), return_exceptions=True)
            await asyncio.sleep(0)  # the first batch is on its way; the next ones gather behind it
            origin = command("counter/b")
            behind = submitted(store, origin)
            assert await store.find(origin.origin.event_id) is not None
            with pytest.raises(UnavailableError):
                await behind
            await first
            assert await store.find(origin.origin.event_id) is None


async def test_a_store_on_a_full_disk_can_be_closed_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        await fill(store, 10)
        with full_disk(path, room=20_000):
            await fill(store)
            await store.close()
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert await store.view(CounterView).get("a") == Counter("a", 10)
        assert await store.verify() == []
