"""What is acknowledged is there after a kill, and damage is named instead of served."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import apsw
import pytest

from ksi.core.errors import LogDamagedError, LogLockedError, NotFoundError
from ksi.core.events import Filter, Kind, Position
from ksi.core.ports import Entry, Unit
from ksi.store.build import build
from ksi.store.chain import Link, Witness, next_link, sealed, witness_of
from ksi.store.lock import holder_of, lock_of
from ksi.store.offline import Verdict, verify_file
from ksi.store.opening import stored_head
from ksi.store.row import pack
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, listed, request, written

APPENDER = Path(__file__).with_name("appender.py")


async def kill_after(path: Path, units: int) -> dict[int, int]:
    """Run an appender, kill it after that many acknowledged units; those with their positions."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(APPENDER), str(path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    seen = {}
    async for line in child.stdout:
        if not line.endswith(b"\n"):
            break  # torn by the kill
        number, position = line.split()
        seen[int(number)] = int(position)
        if len(seen) == units:
            os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    return seen


async def check_after_kill(path: Path, acknowledged: dict[int, int]) -> None:
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert await store.verify() == []
        facts = await listed(store.read_all())
        assert {position - 1 for position in acknowledged.values()} <= {fact.position for fact in facts}
        totals = Tally(fact.stream.partition("/")[2] for fact in facts)
        records = (await store.view(CounterView).scan(limit=1000)).records
        assert {record.id: record.total for record in records} == totals
        assert await listed(store.open_requests()) == []
        assert (await store.append("counter/0", [added()])).versions == (totals["0"] + 1,)


@pytest.mark.parametrize("units", [1, 300, 1500])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, units: int) -> None:
    acknowledged = await kill_after(tmp_path / "events.db", units)
    await check_after_kill(tmp_path / "events.db", acknowledged)


@pytest.mark.soak
async def test_it_survives_a_hundred_kills_of_one_log(tmp_path: Path) -> None:
    acknowledged: dict[int, int] = {}
    for turn in range(100):
        seen = await kill_after(tmp_path / "events.db", 1 + turn * 37 % 700)
        acknowledged |= {number + turn * 1_000_000: position for number, position in seen.items()}
    await check_after_kill(tmp_path / "events.db", acknowledged)


async def test_a_log_has_one_owner_who_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path):
        with pytest.raises(LogLockedError) as caught:
            async with SqliteEventStore.open(path):
                pass
        assert f"pid {os.getpid()}" in caught.value.holder
        assert holder_of(lock_of(path)) == os.getpid()
    assert holder_of(lock_of(path)) is None
    async with SqliteEventStore.open(path):
        pass


async def test_a_lock_file_of_a_dead_process_does_not_count(tmp_path: Path) -> None:
    await kill_after(tmp_path / "events.db", 1)
    assert "pid " in (tmp_path / "events.db-lock").read_text()
    assert holder_of(lock_of(tmp_path / "events.db")) is None
    async with SqliteEventStore.open(tmp_path / "events.db"):
        pass


async def filled(path: Path, units: int = 20) -> None:
    async with SqliteEventStore.open(path) as store:
        for _ in range(units):
            await written(store, command())


def corrupt(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


FLIP = "UPDATE log SET body = CAST(substr(body, 1, 80) || x'C1' || substr(body, 82) AS BLOB) WHERE pos = {}"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (FLIP.format(30), "a row's digest does not fit it"),
        ("DELETE FROM log WHERE pos = 30", "the commit that ends at @30 does not fit its link"),
        ("DELETE FROM commits WHERE last = 30", "the commit that ends at @33 does not fit its link"),
        ("DELETE FROM ids WHERE pos = 28", "the index of ids has"),
        ("INSERT INTO open SELECT 28, id FROM ids WHERE pos = 28", "is not open but in the index of open requests"),
        ("INSERT INTO checkpoints VALUES ('mailer', 0, 99)", "beyond the head @60"),
    ],
)
async def test_verify_names_what_is_wrong(tmp_path: Path, statement: str, problem: str) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, statement)
    async with SqliteEventStore.open(path) as store:
        problems = await store.verify()
    assert len(problems) == 1
    assert problem in problems[0]


async def test_a_row_that_can_not_be_read_is_refused_with_the_position_in_front_of_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    with closing(apsw.Connection(str(path))) as connection:
        head = stored_head(connection)
        tags: Any = "of another type"
        unit = Unit(origin=request(), entries=[Entry(stream="n/1", name="n:n", data=b"{}", tags=tags)])
        row = build(unit, Position(head.last), head.at + 1, [1])
        body = sealed(pack(row))
        connection.execute("INSERT INTO log VALUES (?, 0, ?)", (row.last, body))
        connection.execute("INSERT INTO commits VALUES (?, ?, ?)", next_link(head, head.at + 1, row.last, [body]))
    with pytest.raises(LogDamagedError) as caught:
        async with SqliteEventStore.open(path):
            pass
    assert caught.value.position == head.last


READS: dict[str, Callable[[SqliteEventStore], Awaitable[object]]] = {
    "all": lambda store: listed(store.read_all([Filter(kinds=("request",))])),
    "stream": lambda store: listed(store.read_stream("counter/a")),
    "at": lambda store: store.at(Position(29)),
    "where it begins": lambda store: listed(store.read_stream("counter/a", from_version=10)),
}


@pytest.mark.parametrize("read", READS)
async def test_a_row_that_is_not_as_it_was_written_is_not_read(tmp_path: Path, read: str) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, FLIP.format(30))
    async with SqliteEventStore.open(path) as store:
        assert (await store.at(Position(26))) is not None
        with pytest.raises(LogDamagedError, match="the row @30 is not as it was written") as caught:
            await READS[read](store)
        assert caught.value.position == 27


@pytest.mark.parametrize("read", READS)
async def test_a_row_of_another_type_is_not_read(tmp_path: Path, read: str) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, "UPDATE log SET body = CAST(body AS TEXT) WHERE pos = 30")
    async with SqliteEventStore.open(path) as store:
        with pytest.raises(LogDamagedError):
            await READS[read](store)


async def test_a_page_that_can_not_be_read_is_a_damaged_log_to_who_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path, 200)
    whole = bytearray(path.read_bytes())
    start = max(range(0, len(whole), 4096), key=lambda page: whole.count(b"counter:added", page, page + 4096))
    whole[start : start + 8] = b"\xff" * 8  # the header of a page that holds rows
    path.write_bytes(whole)
    async with SqliteEventStore.open(path) as store:
        with pytest.raises(LogDamagedError):
            await listed(store.read_all())
        assert await store.verify() != []


async def test_a_whole_log_verifies(tmp_path: Path) -> None:
    await filled(tmp_path / "events.db")
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        assert await store.verify() == []


async def test_a_flipped_bit_in_what_no_start_has_verified_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await kill_after(path, 20)
    corrupt(path, FLIP.format(9))
    with pytest.raises(LogDamagedError, match="digest") as caught:
        async with SqliteEventStore.open(path):
            pass
    assert caught.value.position < 9


async def test_a_cut_wal_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    acknowledged = await kill_after(path, 100)
    wal = path.with_name("events.db-wal")
    os.truncate(wal, wal.stat().st_size // 2)  # the end may be a commit that was not acknowledged
    with pytest.raises(LogDamagedError, match=r"@\d+ was acknowledged, but the log ends at @\d+") as caught:
        async with SqliteEventStore.open(path):
            pass
    assert caught.value.position < max(acknowledged.values())
    with pytest.raises(LogDamagedError):  # and the refusal has changed nothing
        async with SqliteEventStore.open(path):
            pass


async def test_a_log_that_was_put_back_behind_its_witness_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    backup = path.read_bytes()
    await filled(path)
    path.write_bytes(backup)
    with pytest.raises(LogDamagedError, match="@120 was acknowledged, but the log ends at @60"):
        async with SqliteEventStore.open(path):
            pass
    (said,) = verify_file(path).problems
    assert "@120 was acknowledged, but the log ends at @60" in said


async def test_another_history_of_the_same_length_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "events.db")
    await filled(tmp_path / "other.db")
    (tmp_path / "other.db").rename(tmp_path / "events.db")
    with pytest.raises(LogDamagedError):
        async with SqliteEventStore.open(tmp_path / "events.db"):
            pass


async def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name, make in (("text.db", None), ("other.db", "CREATE TABLE mine(x)")):
        path = tmp_path / name
        if make is None:
            path.write_bytes(b"my diary, page one. " * 500)
        else:
            corrupt(path, make)
        before = path.read_bytes()
        with pytest.raises(LogDamagedError):
            async with SqliteEventStore.open(path):
                pass
        assert path.read_bytes() == before


def test_a_torn_slot_of_the_witness_leaves_the_other(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "head")
    links = [Link(at, at * 3, bytes([at]) * 32) for at in (1, 2, 3)]
    for link in links:
        witness.write(link)
    assert witness.read() == links[2]
    raw = bytearray((tmp_path / "head").read_bytes())
    raw[5] ^= 1  # the third was written over the first
    (tmp_path / "head").write_bytes(raw)
    assert witness.read() == links[1]
    witness.close()


async def test_runs_and_causes_are_told_apart_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    origin, other = request(), request(id=uuid4().bytes)
    async with SqliteEventStore.open(path) as store:
        await written(store, Unit(origin=origin, request=True))
        both = Entry(stream="$effects", name="effect:requested", data=b"{}", kind="request")
        run_only = Entry(stream="note/1", name="note:written", data=b"{}", cause=other.event_id)
        await written(store, Unit(origin=origin, entries=[both]))
        await written(store, Unit(origin=origin, entries=[run_only]))
    async with SqliteEventStore.open(path) as store:
        kinds: tuple[Kind, ...] = ("fact", "request", "outcome")
        run = await listed(store.read_all([Filter(kinds=kinds, correlation_id=origin.correlation_id)]))
        assert [event.name for event in run] == ["counter:add", "effect:requested", "note:written"]
        caused = await listed(store.read_all([Filter(kinds=kinds, causation_id=UUID(bytes=origin.event_id))]))
        assert [event.name for event in caused] == ["effect:requested"]


async def test_everything_is_there_after_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    unit = command(amount=5)
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        await written(store, unit)
        await store.append("counter/b", [added(2, tags=frozenset({"x:y"}))])
        before = await listed(store.read_all())
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert await listed(store.read_all()) == before
        tagged = await listed(store.read_all([Filter(tags=frozenset({"x:y"}))]))
        assert [event.stream for event in tagged] == ["counter/b"]
        assert await store.view(CounterView).get("a") == Counter("a", 5)
        known = await store.find(unit.origin.event_id)
        assert known is not None
        assert known.outcome == unit.outcome
        assert (await store.append("counter/b", [added()], expected_version=1)).versions == (2,)


async def test_a_log_that_nobody_has_open_is_verified_where_it_lies_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    acknowledged = await kill_after(path, 20)
    before = {file: file.read_bytes() for file in (path, path.with_name("events.db-wal"), witness_of(path))}
    verdict = verify_file(path)
    assert verdict.problems == []
    assert verdict.head >= max(acknowledged.values())
    assert {file: file.read_bytes() for file in before} == before


def files_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def test_a_log_that_was_closed_is_verified_without_a_trace(tmp_path: Path) -> None:
    await filled(tmp_path / "events.db")
    before = files_in(tmp_path)
    assert verify_file(tmp_path / "events.db") == Verdict([], 60)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("statement", "problem"),
    [(FLIP.format(9), "a row's digest does not fit it"), ("DROP TABLE commits", "SQLite can not read it")],
)
async def test_what_is_wrong_with_a_log_that_nobody_has_open_is_named(
    tmp_path: Path, statement: str, problem: str
) -> None:
    path = tmp_path / "events.db"
    await kill_after(path, 20)
    corrupt(path, statement)
    (said,) = verify_file(path).problems
    assert problem in said


async def test_a_log_that_somebody_has_open_is_not_verified_behind_his_back(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db"):
        with pytest.raises(LogLockedError):
            verify_file(tmp_path / "events.db")


def test_where_no_log_is_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_file(tmp_path / "events.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_log_that_is_written_all_the_time_is_verified_all_the_same(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        going_on = True

        async def write() -> None:
            while going_on:
                await written(store, command())

        writers = [asyncio.create_task(write()) for _ in range(4)]
        try:
            async with asyncio.timeout(30):
                for _ in range(3):
                    assert await store.verify() == []
        finally:
            going_on = False
            await asyncio.gather(*writers)
