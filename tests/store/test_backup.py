"""A copy that is made while all goes on is whole, and becomes a log again; what is not whole becomes neither."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest

from ksi.core.errors import (
    ConflictError,
    LogDamagedError,
    LogLockedError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from ksi.store.backup import restore
from ksi.store.memory import InMemoryEventStore
from ksi.store.offline import verify_file
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, listed, written
from tests.store.test_damage import FLIP, corrupt, files_in, filled


async def backed_up(directory: Path, units: int = 5) -> Path:
    async with SqliteEventStore.open(directory / "events.db") as store:
        store.register(CounterView)
        for _ in range(units):
            await written(store, command())
        await store.backup(directory / "copy.db")
    return directory / "copy.db"


async def test_what_was_acknowledged_is_in_the_copy_and_what_comes_later_is_not(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        store.register(CounterView)
        await written(store, command())
        before = await listed(store.read_all())
        made = await store.backup(tmp_path / "copy.db")
        await written(store, command())
    restored = restore(tmp_path / "copy.db", tmp_path / "new" / "events.db")
    assert (made.position, restored.position) == (3, 3)
    async with SqliteEventStore.open(tmp_path / "new" / "events.db") as again:
        again.register(CounterView)
        assert await listed(again.read_all()) == before
        assert await again.view(CounterView).get("a") == Counter("a", 1)
        assert await again.verify() == []
        await written(again, command())
        assert await again.view(CounterView).get("a") == Counter("a", 2)


async def test_a_copy_that_is_made_while_others_write_is_one_state_of_the_log(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        writing = asyncio.gather(*(written(store, command()) for _ in range(500)))
        copies = [await store.backup(tmp_path / f"copy{number}.db") for number in range(5)]
        await writing
    for made in copies:
        assert restore(Path(made.path), tmp_path / Path(made.path).stem / "events.db").position == made.position
        assert made.position % 3 == 0  # a command is three events, and is there whole


async def test_a_copy_is_one_file_for_its_owner_and_the_answer_says_what_is_in_it(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await written(store, command())
        (tmp_path / "copies").mkdir()
        made = await store.backup(tmp_path / "copies" / "copy.db")
    copy = tmp_path / "copies" / "copy.db"
    assert files_in(copy.parent) == ["copy.db"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert made.bytes == copy.stat().st_size
    assert made.sha256 == hashlib.sha256(copy.read_bytes()).hexdigest()


async def test_records_of_views_are_not_in_a_copy(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        store.register(CounterView)
        await store.append("counter/lighthouse", [added()])
        await store.views_written()
        await store.backup(tmp_path / "copy.db")
    assert b"view:counter" in (tmp_path / "events.db").read_bytes()
    copied = (tmp_path / "copy.db").read_bytes()
    assert b"view:counter" not in copied
    assert b'"lighthouse"' not in copied


async def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(ConflictError):
        await backed_up(tmp_path)
    assert (tmp_path / "copy.db").read_text() == "mine"


async def test_where_no_file_can_be_none_is_made_and_the_log_goes_on(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        with pytest.raises(UnavailableError):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        await written(store, command())


async def test_a_damaged_log_gives_no_copy(tmp_path: Path) -> None:
    await filled(tmp_path / "events.db")
    corrupt(tmp_path / "events.db", FLIP.format(30))
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        with pytest.raises(LogDamagedError, match="digest"):
            await store.backup(tmp_path / "copy.db")
    assert [name for name in files_in(tmp_path) if name.startswith("copy")] == []


async def test_a_damaged_copy_becomes_no_log(tmp_path: Path) -> None:
    copy = await backed_up(tmp_path)
    corrupt(copy, FLIP.format(9))
    with pytest.raises(LogDamagedError, match="digest"):
        restore(copy, tmp_path / "new" / "events.db")
    assert files_in(tmp_path / "new") == ["events.db-lock"]


async def test_what_is_no_copy_becomes_no_log(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("my diary, page one. " * 500)
    (tmp_path / "empty").touch()
    for name in ("diary", "empty"):
        with pytest.raises(LogDamagedError):
            restore(tmp_path / name, tmp_path / "new" / "events.db")
    with pytest.raises(NotFoundError):
        restore(tmp_path / "nothing", tmp_path / "new" / "events.db")


async def test_a_log_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    copy = await backed_up(tmp_path)
    with pytest.raises(ConflictError):
        restore(copy, tmp_path / "events.db")
    async with SqliteEventStore.open(tmp_path / "events.db"):
        with pytest.raises(LogLockedError):
            restore(copy, tmp_path / "events.db")


async def test_a_wal_that_a_lost_log_has_left_does_not_get_into_the_copy(tmp_path: Path) -> None:
    copy = await backed_up(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "events.db-wal").write_bytes(b"left")
    with pytest.raises(ConflictError):
        restore(copy, tmp_path / "new" / "events.db")


async def test_the_witness_of_a_lost_log_does_not_keep_the_restored_one_from_opening(tmp_path: Path) -> None:
    copy = await backed_up(tmp_path)
    await filled(tmp_path / "new.db")
    (tmp_path / "new.db").unlink()
    assert restore(copy, tmp_path / "new.db").position == 15
    assert verify_file(tmp_path / "new.db").problems == []


async def test_a_log_without_a_file_says_that_it_has_no_backup(tmp_path: Path) -> None:
    async with InMemoryEventStore() as store:
        with pytest.raises(UnsupportedError):
            await store.backup(tmp_path / "copy.db")
