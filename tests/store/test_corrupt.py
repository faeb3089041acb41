"""A database file that SQLite itself can not read is a damaged log, said as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import LogDamagedError
from ksi.core.events import NewEvent
from ksi.store.sqlite_log import SqliteEventStore

PAGE = 4096


async def test_a_file_of_broken_pages_is_a_damaged_log_and_leaves_it_free(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await store.append("item/1", [NewEvent(name="item:put", data={"n": 1})])
    whole = path.read_bytes()
    path.write_bytes(whole[:PAGE] + b"\xff" * (len(whole) - PAGE))
    for _ in range(2):  # the lock was given back
        with pytest.raises(LogDamagedError):
            async with SqliteEventStore.open(path):
                pass
