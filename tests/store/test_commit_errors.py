"""A COMMIT that reports an error may have landed: the log finds out, says the truth and goes on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.core.errors import UnavailableError
from ksi.core.threads import SystemThreads
from ksi.store.sqlite_log import PROBE_PAUSE, SqliteEventStore
from ksi.testing.counters import Counter, CounterView, command, listed, written
from ksi.testing.disk import Disk
from ksi.testing.loop import ManualClock
from ksi.testing.vfs import DiskVFS


@pytest.fixture
async def threads() -> AsyncIterator[SystemThreads]:
    threads = SystemThreads()
    yield threads
    threads.close()


def fail_behind_the_commit(store: SqliteEventStore) -> None:
    """SQLite: an error of the WAL hook is that of the COMMIT, "though the commit will have still occurred"."""

    def hook(*_: object) -> int:
        raise OSError("nobody knows what became of it")

    store._writer.connection.set_wal_hook(hook)


async def probed(store: SqliteEventStore, clock: ManualClock, threads: SystemThreads) -> None:
    """The log has tried whether the disk takes something again."""
    clock.advance(PROBE_PAUSE)
    with pytest.raises(UnavailableError):
        await written(store, command())
    await threads.run("writer", int)


async def test_a_commit_that_landed_is_acknowledged_whatever_it_reported(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        store.register(CounterView)
        await written(store, command())
        fail_behind_the_commit(store)
        assert (await written(store, command())).versions == (2,)
        assert not store.is_read_only
        assert (await written(store, command())).versions == (3,)
        assert await store.view(CounterView).get("a") == Counter("a", 3)
        assert await store.verify() == []


async def test_what_landed_and_could_not_be_witnessed_is_found_by_a_retry(
    tmp_path: Path, threads: SystemThreads
) -> None:
    clock = ManualClock()
    async with SqliteEventStore.open(tmp_path / "events.db", clock=clock, threads=threads) as store:
        store.register(CounterView)
        await written(store, command())
        witness = store._writer.witness
        descriptor, witness._descriptor = witness._descriptor, os.open(tmp_path, os.O_RDONLY)  # takes no write
        unit = command()
        with pytest.raises(UnavailableError):
            await written(store, unit)
        assert await store.find(unit.origin.event_id) is None  # it was not acknowledged, so nobody sees it
        assert await store.view(CounterView).get("a") == Counter("a", 1)
        os.close(witness._descriptor)
        witness._descriptor = descriptor
        async with store.subscribe(after="end") as subscription:
            await probed(store, clock, threads)
            assert (await anext(aiter(subscription))).version == 2
        known = await store.find(unit.origin.event_id)
        assert known is not None
        assert known.outcome is not None
        assert await store.view(CounterView).get("a") == Counter("a", 2)
        assert (await written(store, command())).versions == (3,)
        assert await store.verify() == []
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        store.register(CounterView)
        assert await store.view(CounterView).get("a") == Counter("a", 3)


async def test_a_sync_that_fails_fails_the_unit_and_the_log_goes_on(tmp_path: Path, threads: SystemThreads) -> None:
    clock, path = ManualClock(), tmp_path / "events.db"
    with DiskVFS(Disk()) as vfs:
        async with SqliteEventStore.open(path, clock=clock, threads=threads, vfs=vfs.name) as store:
            store.register(CounterView)
            await written(store, command())
            vfs.disk.fail_syncs()
            unit = command()
            with pytest.raises(UnavailableError):
                await written(store, unit)
            assert await listed(store.read_all(after=await store.head())) == []
            vfs.disk.fail_syncs(False)
            await probed(store, clock, threads)
            known = await store.find(unit.origin.event_id)
            assert (await written(store, command() if known else unit)).versions == (3 if known else 2,)
            assert await store.verify() == []
