"""The power goes at a random moment, and with it all that was not synced: who remembers what was acknowledged?"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from random import Random
from typing import Literal

import apsw

from ksi.core import ids
from ksi.core.errors import KSIError, LogDamagedError, UnavailableError
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from ksi.testing.vfs import DiskVFS
from tests.daemon.audit import Books
from tests.daemon.ledger import Ledger

Durability = Literal["full", "normal"]
WORKERS = 6
CHANGES_MAX = 700
"""Writes and syncs among which the last one is chosen: some dozens of commits, flushes of keys, checkpoints."""


async def lost(path: Path, seed: int, *, durability: Durability = "full", syncs: bool = True) -> int:
    """How many acknowledged commands are gone afterwards; -1 where the log can not even be opened.

    ``syncs`` False is SQLite's ``synchronous=OFF``.
    """
    with DiskVFS() as vfs:
        acknowledged = await _until_the_power_goes(vfs, path, Random(seed), durability, syncs=syncs)
        vfs.disk.crash(seed)
        books = await _books(path, vfs)
        gc.collect()  # a log that could not be opened leaves connections behind; their VFS must outlive them
    if books is None:
        return -1
    assert list(books.problems) == []
    books.check_counters()
    return sum(books.outcomes_of[event_id] == 0 for event_id in acknowledged)


async def _books(path: Path, vfs: DiskVFS) -> Books | None:
    try:
        async with SqliteEventStore.open(path, vfs=vfs.name) as log:
            return await Books.read(log)
    except (LogDamagedError, apsw.CorruptError):
        return None


async def _until_the_power_goes(
    vfs: DiskVFS, path: Path, random: Random, durability: Durability, *, syncs: bool
) -> list[str]:
    """Ids of the commands that were acknowledged till then."""
    acknowledged: list[str] = []
    async with SqliteEventStore.open(path, vfs=vfs.name, durability=durability) as log:
        if not syncs:
            log._writer.connection.execute("PRAGMA synchronous = OFF")
        async with EventTestHarness(Ledger, log=log) as ksi:
            vfs.disk.fail_after(random.randrange(1, CHANGES_MAX))
            await asyncio.gather(*(_command(ksi, number, acknowledged) for number in range(WORKERS)))
    return acknowledged


async def _command(ksi: EventTestHarness, number: int, acknowledged: list[str]) -> None:
    names = {"source": f"c{number}", "target": f"c{number + 1}"}
    while True:
        event_id = ids.text(ids.new_id())
        try:
            await ksi.request("ledger:transfer", names, event_id=event_id)
        except UnavailableError:
            return
        except KSIError as error:
            raise AssertionError(f"not the end that power loss makes: {error!r}") from error
        acknowledged.append(event_id)
