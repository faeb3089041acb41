"""Chunks and effects of closed runs leave the log for a file, and come back: nothing is lost, the chain stays whole.

The power goes at each step of it in the crash matrix below.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    ArchivedError,
    ConflictError,
    LogDamagedError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    ValidationError,
)
from ksi.core.events import MAIN, ArchiveCategory, Filter, Position, RecordedEvent
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.store import archive_file, archiving
from ksi.store.archive_file import read_page
from ksi.store.backup import restore
from ksi.store.memory import InMemoryEventStore
from ksi.store.offline import verify_file
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.store.stub import archive_of, read_row, stub_of
from ksi.testing.counters import ALL_KINDS, added, listed, request, written
from ksi.testing.vfs import DiskVFS
from tests.store.images import flip

WORDS = 4
Opened = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass
class Answered:
    """A run: a request with an effect, an answer word by word, a fact."""

    origin: EventEnvelope

    @property
    def stream(self) -> str:
        return f"completion/{ids.text(self.origin.event_id)}"


async def answered(log: Journal, *, closes: bool = True, **fields: object) -> Answered:
    run = Answered(request("completion:create", raw=b'{"prompt":"hello"}', **fields))
    asked = Entry(stream="$effects", name="effect:requested", kind="request", data=b'{"prompt":"hello"}')
    await written(log, Unit(origin=run.origin, request=True, entries=[asked]))
    for number in range(WORDS):
        word = Entry(stream=run.stream, name="completion:create", kind="chunk", data=b'{"text":"w%d"}' % number)
        await written(log, Unit(origin=run.origin, entries=[word]))
    end = Entry(stream="$effects", name="effect:completed", kind="outcome", data=b'{"usage":4}')
    said = Entry(stream=run.stream, name="completion:finished", data=b'{"words":4}')
    outcome = Outcome(True, b'{"text":"w0w1w2w3"}') if closes else None
    await written(log, Unit(origin=run.origin, entries=[end, said], outcome=outcome))
    return run


async def everything(log: Journal, branch: str = MAIN) -> list[RecordedEvent]:
    return await listed(log.read_all([ALL_KINDS], branch=branch))


async def end_of(log: Journal) -> Position:
    """Behind the last event."""
    return Position((await log.head() or 0) + 1)


def contents(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same log, as often as it is called."""
    if request.param == "sqlite":
        return partial(SqliteEventStore.open, tmp_path / "events.db")
    return partial(PostgresEventStore.open, request.getfixturevalue("url"), keys=tmp_path / "keys")


@pytest.fixture
async def log(opened: Opened) -> AsyncIterator[Journal]:
    async with opened() as store:
        yield store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "old.archive"


# ── out and back ─────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_chunks_and_effects_leave_and_come_back_as_they_were(log: Journal, file: Path) -> None:
    run = await answered(log)
    before, facts = await everything(log), await listed(log.read_all())
    archive = await log.archive(file, before=await end_of(log))
    assert (archive.rows, archive.path, archive.before) == (WORDS + 2, str(file), 10)
    assert await log.verify() == []
    assert (await listed(log.read_all()))[: len(facts)] == facts
    with pytest.raises(ArchivedError) as caught:
        await listed(log.read_stream(run.stream))
    assert (caught.value.file, caught.value.archive, caught.value.position) == (str(file), archive.id, 3)
    attached = await log.attach(file)
    assert (attached.rows, attached.id) == (archive.rows, archive.id)
    assert (await everything(log))[: len(before)] == before
    assert await log.verify() == []
    assert [event.name for event in await listed(log.read_stream("store/log"))] == [
        "store:was_archived",
        "store:was_attached",
    ]


async def test_what_has_left_is_still_away_after_the_next_start(opened: Opened, file: Path) -> None:
    async with opened() as store:
        run = await answered(store)
        before = await everything(store)
        await store.archive(file, before=await end_of(store))
        assert (await store.sizes()).archived > 0
    async with opened() as store:
        assert await store.verify() == []
        with pytest.raises(ArchivedError) as caught:
            await listed(store.read_stream(run.stream, backwards=True))
        assert caught.value.file == str(file)
        await store.attach(file)
        assert (await everything(store))[: len(before)] == before
        assert await store.verify() == []


async def test_who_follows_a_log_in_a_database_hears_what_has_left(url: str, file: Path) -> None:
    async with PostgresEventStore.open(url) as owner, PostgresEventStore.open(url, access="read") as reader:
        run = await answered(owner)
        before = await end_of(owner)
        with pytest.raises(UnsupportedError):
            await reader.archive(file, before=before)
        await owner.archive(file, before=before)
        async with PostgresEventStore.open(url, access="read") as later:
            for follower in (reader, later):
                await follower.catch_up()
                await follower.keys_written()  # so that nothing is in memory
                with pytest.raises(ArchivedError) as caught:
                    await listed(follower.read_stream(run.stream))
                assert caught.value.file == str(file)


async def test_only_what_is_asked_for_leaves(log: Journal, file: Path) -> None:
    run = await answered(log)
    only: list[ArchiveCategory] = ["chunks"]
    assert (await log.archive(file, before=await end_of(log), categories=only)).rows == WORDS
    assert len(await listed(log.read_all([Filter(streams=("$effects",), kinds=("request", "outcome"))]))) == 2
    with pytest.raises(ArchivedError):
        await listed(log.read_stream(run.stream))


async def test_a_run_that_is_open_stays_and_leaves_when_it_is_closed(log: Journal, tmp_path: Path) -> None:
    run = await answered(log, closes=False)
    other = await answered(log)
    assert (await log.archive(tmp_path / "one", before=await end_of(log))).rows == WORDS + 2
    assert len(await listed(log.read_stream(run.stream))) == WORDS + 1
    with pytest.raises(ArchivedError):
        await listed(log.read_stream(other.stream))
    await written(log, Unit(origin=run.origin, outcome=Outcome(True, b"{}")))
    assert (await log.archive(tmp_path / "two", before=await end_of(log))).rows == WORDS + 2
    assert await log.verify() == []


async def test_where_nothing_can_leave_there_is_no_file(log: Journal, file: Path) -> None:
    await log.append("counter/a", [added()])
    assert (await log.archive(file, before=await end_of(log))).rows == 0
    assert contents(file) is None
    with pytest.raises(ValidationError):
        await log.archive(file, before=Position(99))


async def test_what_was_attached_can_leave_again(log: Journal, file: Path, tmp_path: Path) -> None:
    await answered(log)
    first = await log.archive(file, before=await end_of(log))
    assert (await log.attach(file)).rows == (first.rows)
    assert (await log.attach(file)).rows == 0
    assert (await log.archive(tmp_path / "again", before=await end_of(log))).rows == first.rows
    assert await log.verify() == []
    assert (await log.attach(file)).rows == first.rows  # whichever file: the rows are the same
    assert await log.verify() == []


# ── who reads ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_ids_are_known_for_ever(log: Journal, file: Path) -> None:
    run = await answered(log)
    chunk = (await listed(log.read_stream(run.stream)))[0]
    await log.archive(file, before=await end_of(log))
    known = await log.find(run.origin.event_id)
    assert known is not None
    assert known.outcome == Outcome(True, b'{"text":"w0w1w2w3"}')
    with pytest.raises(ArchivedError) as caught:
        await log.get(chunk.event_id)
    assert caught.value.position == chunk.position
    with pytest.raises(ArchivedError):
        await log.at(chunk.position)


async def test_lists_of_streams_and_branches_need_no_file(log: Journal, file: Path) -> None:
    run = await answered(log)
    await log.fork(Position(4), "cut")  # its last event is a chunk
    streams = [info async for info in log.streams()]
    branches = await log.branches()
    await log.archive(file, before=await end_of(log))
    assert [info async for info in log.streams() if info.name != "store/log"] == streams
    assert (await log.branches())[1:] == branches[1:]
    assert await log.version("$effects") == 2
    assert await log.version(run.stream) == WORDS + 1


async def test_a_subscriber_of_chunks_hears_which_file_it_needs(log: Journal, file: Path) -> None:
    await answered(log)
    await log.archive(file, before=await end_of(log))
    async with log.subscribe([ALL_KINDS], after="start") as events:
        with pytest.raises(ArchivedError):
            async for _ in events:
                pass


async def test_keys_are_written_anew_over_what_has_left(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        run = await answered(store)
        await store.archive(file, before=await end_of(store))
    with apsw.Connection(str(path)) as connection:
        connection.execute("DELETE FROM keys; UPDATE meta SET value = NULL WHERE key = 'index'")
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
        with pytest.raises(ArchivedError):
            await listed(store.read_stream(run.stream))


async def test_a_subject_is_erased_in_the_archive_too(log: Journal, file: Path) -> None:
    run = await answered(log, subject="person/1")
    await log.archive(file, before=await end_of(log))
    assert b"w1" not in (contents(file) or b"w1")
    assert (await log.erase_subject("person/1")).events == WORDS + 5
    await log.attach(file)
    assert [event.data for event in await listed(log.read_stream(run.stream))] == [None] * (WORDS + 1)
    assert await log.verify() == []


async def test_a_copy_of_the_log_is_as_whole_as_the_log(log: Journal, file: Path, tmp_path: Path) -> None:
    await answered(log)
    await log.archive(file, before=await end_of(log))
    before = await listed(log.read_all())
    assert (await log.backup(tmp_path / "copy.db")).position == await log.head()
    restore(tmp_path / "copy.db", tmp_path / "again" / "events.db")
    async with SqliteEventStore.open(tmp_path / "again" / "events.db") as again:
        assert await listed(again.read_all()) == before
        with pytest.raises(ArchivedError):
            await everything(again)
        assert (await again.attach(file)).rows == WORDS + 2
        assert await again.verify() == []


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_file_that_is_no_archive_of_this_log_is_refused(log: Journal, tmp_path: Path) -> None:
    await answered(log)
    async with SqliteEventStore.open(tmp_path / "other.db") as other:
        await answered(other)
        await other.archive(tmp_path / "theirs", before=await end_of(other))
    await log.backup(tmp_path / "copy.db")
    (tmp_path / "text").write_text("no database")
    with pytest.raises(NotFoundError):
        await log.attach(tmp_path / "nothing")
    for name in ("theirs", "copy.db"):
        with pytest.raises(ConflictError):
            await log.attach(tmp_path / name)
    with pytest.raises(LogDamagedError):
        await log.attach(tmp_path / "text")
    with pytest.raises(ConflictError):
        await log.archive(tmp_path / "theirs", before=await end_of(log))


async def test_an_archive_of_which_a_bit_is_flipped_is_refused(log: Journal, file: Path) -> None:
    await answered(log)
    await log.archive(file, before=await end_of(log))
    place = (contents(file) or b"").index(b"w2")
    flip(file, place, 0)
    with pytest.raises(LogDamagedError):
        await log.attach(file)
    flip(file, place, 0)
    await log.attach(file)
    assert await log.verify() == []


async def test_what_is_left_here_is_bound_to_the_chain(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await answered(store)
        await answered(store)
        await store.archive(file, before=await end_of(store))
    with closing(apsw.Connection(str(path))) as connection:
        (body, stub) = next(row[1:] for row in read_page(file, 0) if row.last == 3)
        row = read_row(body)
        forged = replace(row, lines=tuple(replace(line, name="completion:forged") for line in row.lines))
        connection.execute("UPDATE log SET body = ? WHERE pos = 3", (stub_of(forged, body, archive_of(stub)),))
    assert any(str(file) in problem for problem in verify_file(path).problems)


async def test_in_memory_there_are_no_archives(file: Path) -> None:
    store = InMemoryEventStore()
    with pytest.raises(UnsupportedError):
        await store.archive(file, before=Position(1))
    with pytest.raises(UnsupportedError):
        await store.attach(file)


# ── the power ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def dies_at(directory: Path, change: int, seed: int | None, *, back: bool) -> bool:
    """Lose the power at the ``change``-th write or sync of it; whether there were so many. Then do it to the end."""
    path, file = made(directory) / "events.db", directory / "old.archive"
    with DiskVFS() as vfs:
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            for _ in range(3):
                await answered(store)
            events, before = await everything(store), await end_of(store)
            if back:
                await store.archive(file, before=before)
            vfs.disk.fail_after(change)
            with suppress(UnavailableError):
                await (store.attach(file) if back else store.archive(file, before=before))
            was_lost = not vfs.disk.is_powered
        vfs.disk.crash(seed)
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            assert await store.verify() == []
            if not back:
                await store.archive(file, before=before)
                assert await store.verify() == []
            await store.attach(file)
            assert await store.verify() == []
            assert (await everything(store))[: len(events)] == events
    return was_lost


async def dies_at_each_step(tmp_path: Path, step: int, *, back: bool) -> None:
    change, was_lost = 1, True
    while was_lost:
        for seed in (None, change):
            was_lost = await dies_at(tmp_path / f"{back}-{change}-{seed}", change, seed, back=back)
        change += step


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archive_file, archiving):
        monkeypatch.setattr(module, "PAGE", 3)  # so that it takes several commits


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("back", [False, True])
async def test_power_that_goes_at_some_step_loses_nothing(tmp_path: Path, back: bool) -> None:
    await dies_at_each_step(tmp_path, 11, back=back)


@pytest.mark.soak
@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("back", [False, True])
async def test_power_that_goes_at_any_step_loses_nothing(tmp_path: Path, back: bool) -> None:
    await dies_at_each_step(tmp_path, 1, back=back)


@pytest.mark.usefixtures("small_pages")
async def test_a_disk_that_fills_up_on_the_way_loses_nothing(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "events.db"
    with DiskVFS() as vfs:
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            for _ in range(3):
                await answered(store)
            before, events = await end_of(store), await everything(store)
            await store.keys_written()
            vfs.disk.full()
            with pytest.raises(UnavailableError):
                await store.archive(file, before=before)
            vfs.disk.full(False)
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            assert await store.verify() == []
            assert (await everything(store))[: len(events)] == events
            assert contents(file) is not None
            assert (await store.archive(file, before=before)).rows == 3 * (WORDS + 2)
            assert await store.verify() == []


@pytest.mark.soak
async def test_kills_on_the_way_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        for _ in range(10):
            await answered(store)
        events, before = await everything(store), await end_of(store)
    for _ in range(20):
        await killed_on_the_way(path, before)
        async with SqliteEventStore.open(path) as store:
            assert await store.verify() == []
            for file in archives_in(tmp_path):
                await store.attach(file)
            assert (await everything(store))[: len(events)] == events
            assert await store.verify() == []


async def killed_on_the_way(path: Path, before: int) -> None:
    arguments = (sys.executable, "-m", "tests.store.archiver", str(path), str(before))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    await asyncio.sleep(random.uniform(0, 0.3))  # the moment is what the test tries
    process.kill()
    await process.wait()


def archives_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.archive"))
