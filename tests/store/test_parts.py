"""Parts of the SQLite log whose failures are hard to bring about from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksi.core import ids
from ksi.core.events import Position
from ksi.core.ports import Journal
from ksi.store.chain import sealed
from ksi.store.cursor import BYTES_MAX, Cursor
from ksi.store.decide import Decider
from ksi.store.idindex import AHEAD_US, SqliteIds, id_floor
from ksi.store.memory import InMemoryEventStore
from ksi.store.order import sort_key
from ksi.store.query import Compiled
from ksi.store.row import Row, pack, unpack, unpack_lines
from ksi.store.schema import TABLES
from ksi.store.segments import Generations
from ksi.store.shelf import SqliteShelf
from ksi.store.sqlite_log import SqliteEventStore
from ksi.store.tail import Tail
from ksi.store.views import Place
from ksi.testing.counters import Counter, CounterView, added, command, listed
from ksi.testing.loop import ManualClock

DAY_US = 86_400_000_000


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    yield connection
    connection.close()


def rows(count: int) -> list[tuple[Row, bytes]]:
    decider: Decider = InMemoryEventStore()._decider
    decided = [decider.decide(command(f"counter/{n}"), 1, lambda committed, error: None) for n in range(count)]
    return [(one.row, one.body) for one in decided if one.row is not None]


def test_a_generation_that_could_not_be_written_is_whole_again() -> None:
    generations = Generations(0, Tail())
    made = rows(5)
    for row, body in made[:3]:
        generations.add(row, body)
    generations.begin()
    for row, body in made[3:]:
        generations.add(row, body)
    generations.failed()
    (tail,) = generations.tails()
    assert tail.rows(None, 0, 99, False, 99, unpack) == [row for row, _ in made]
    assert [row.last for row in tail.rows(["s:counter/1", "s:counter/4"], 0, 99, False, 99, unpack_lines)] == [6, 15]
    assert generations.heads() == {f"counter/{n}": 1 for n in range(5)}


def test_a_generation_on_a_disk_that_can_not_be_read_is_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ksi.store.tail.NEWEST", 2)

    def unreadable() -> NoReturn:
        raise apsw.IOError("the disk is gone")

    generations, made = Generations(0, Tail(unreadable)), rows(20)
    for row, body in made[:9]:
        generations.add(row, body)
    generations.begin()
    for row, body in made[9:16]:
        generations.add(row, body)
    generations.failed()
    for row, body in made[16:]:
        generations.add(row, body)
    (tail,) = generations.tails()
    assert tail.lasts() == [row.last for row, _ in made]
    assert tail.postings()["n:counter:added"] == list(range(20))
    assert [tail.postings()[f"s:counter/{n}"] for n in range(20)] == [[n] for n in range(20)]
    newest = tail.rows(None, tail.unpacked_from, 999, False, 99, unpack)
    assert newest == [row for row, _ in made[-len(newest) :]]
    assert generations.unpacked_from >= made[10][0].last


def test_of_large_rows_few_stay_unpacked_and_all_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rows(20)
    monkeypatch.setattr("ksi.store.tail.NEWEST_BYTES", 2 * len(made[0][1]))
    tail = Tail()
    for row, body in made:
        tail.add(row, body)
        assert 1 <= len(tail._newest) <= 6
    assert tail.unpacked_from >= made[15][0].last
    assert tail.rows(None, 0, 999, False, 99, unpack) == [row for row, _ in made]


def test_records_that_could_not_be_written_are_still_there(connection: apsw.Connection) -> None:
    shelf = SqliteShelf(connection, CounterView(), Place(CounterView))
    shelf.put(("a",), Counter("a", 1))
    shelf.put(("b",), Counter("b", 1))
    shelf.begin(3)
    shelf.put(("a",), Counter("a", 2))
    shelf.failed()
    assert shelf.get(("a",)) == Counter("a", 2)
    shelf.begin(7)
    shelf.write(connection)
    shelf.written()
    again = SqliteShelf(connection, CounterView(), Place(CounterView))
    assert (again.position, again.get(("a",)), again.get(("b",))) == (7, Counter("a", 2), Counter("b", 1))


def test_an_id_of_tomorrow_is_known_when_tomorrow_comes(connection: apsw.Connection) -> None:
    now = 1_800_000_000_000_000
    known = SqliteIds(connection, now)
    early = id_floor(now + AHEAD_US + DAY_US)
    connection.execute("INSERT INTO ids(id, pos) VALUES (?, 5)", (early,))
    assert known.find(early) == 5
    known.trim(9, now + 3 * DAY_US)
    assert known.find(early) == 5


@pytest.fixture
def few_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ksi.store.idindex.IDS_MAX", 8)
    monkeypatch.setattr("ksi.store.idindex.TRIMMED", 4)


@pytest.mark.usefixtures("few_ids")
def test_ids_are_found_after_they_left_memory(connection: apsw.Connection) -> None:
    now = 1_800_000_000_000_000
    known = SqliteIds(connection, now)
    made = [id_floor(now + n * 1000) for n in range(40)]
    for position, raw in enumerate(made, 1):
        known.add(raw, position)
        connection.execute("INSERT INTO ids(id, pos) VALUES (?, ?)", (raw, position))
        known.trim(position, now + position * 1000)
    assert [known.find(raw) for raw in made] == list(range(1, 41))
    assert known.find(id_floor(now + 40_000)) is None
    assert len(known._positions) <= 9


@pytest.mark.usefixtures("few_ids")
def test_an_id_that_is_dated_ahead_costs_those_behind_it_nothing(connection: apsw.Connection) -> None:
    now = 1_800_000_000_000_000
    known = SqliteIds(connection, now)
    known.add(id_floor(now + 59_000_000), 1)
    for position in range(2, 40):
        known.add(id_floor(now + position * 1000), position)
        known.trim(position, now + position * 1000)
        assert known.is_new(id_floor(now + position * 1000)[:15] + b"\1")


@pytest.mark.usefixtures("few_ids")
@given(
    ages=st.lists(
        st.sampled_from([-86_400_000, -61_000, -500, -1, 0, 1, 500, 59_000, 61_000]), min_size=12, max_size=40
    ),
    data=st.data(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_ids_are_asked_for_is_what_was_added_however_they_are_dated(
    connection: apsw.Connection, ages: list[int], data: st.DataObject
) -> None:
    """``ages``: milliseconds by which the clock of who made the id is ahead."""
    connection.execute("DELETE FROM ids")
    now = 1_800_000_000_000_000
    known, added, closed = SqliteIds(connection, now), dict[bytes, int](), dict[bytes, int]()
    late = data.draw(st.sampled_from([0, 1, 6, 30]))  # positions by which the disk is behind
    for number, ahead in enumerate(ages, 1):
        now += 1_000
        raw, position = id_floor(now + ahead * 1_000)[:12] + number.to_bytes(4, "big"), 2 * number
        known.add(raw, position)
        added[raw] = position
        if data.draw(st.booleans()):
            ended = data.draw(st.sampled_from(sorted(added)))
            known.close(ended, position + 1)
            closed[ended] = position + 1
        visible = position + 1 - late
        connection.executemany(
            "INSERT OR REPLACE INTO ids(id, pos, done) VALUES (?, ?, ?)",
            [
                (each, at, end if (end := closed.get(each)) and end <= visible else None)
                for each, at in added.items()
                if at <= visible
            ],
        )
        known.trim(visible, now)
        new = id_floor(now)[:12] + b"new!"
        assert (known.find(new), {raw: known.find(raw) for raw in added}) == (None, added)
        assert {raw: known.closing(raw) for raw in closed} == closed
        assert not any(known.is_new(raw) for raw in added)


@pytest.mark.parametrize(
    "values",
    [
        [None, False, True],
        [-(2**63), -256, -1, 0, 1, 255, 256, 2**63 - 1],
        [float("-inf"), -2.5, -0.1, 0.0, 1e-9, 3.25, float("inf")],
        ["", "\0", "\0a", "a", "a\0", "a\0b", "aa", "b", "\N{GRINNING FACE}"],
        [b"", b"\0", b"\0\xff", b"\xff"],
    ],
)
def test_bytes_sort_like_the_values_and_parts_like_tuples(values: list[object]) -> None:
    assert sorted(values, key=lambda value: sort_key([value])) == values
    pairs = [(one, other) for one in values for other in values]
    assert sorted(pairs, key=sort_key) == pairs


def test_a_row_is_unpacked_as_it_was_packed() -> None:
    ((row, body),) = rows(1)
    assert unpack(pack(row)) == row
    assert body == sealed(pack(row))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Journal, ManualClock]]:
    clock = ManualClock()
    opened = (
        InMemoryEventStore(clock=clock)
        if request.param == "memory"
        else SqliteEventStore.open(tmp_path / "events.db", clock=clock)
    )
    async with opened as log:
        yield log, clock


async def test_recorded_time_does_not_go_back_with_the_clock(store: tuple[Journal, ManualClock]) -> None:
    log, clock = store
    await log.append("counter/a", [added()])
    clock.shift_wall(-3600)
    await log.append("counter/a", [added()])
    first, second = await listed(log.read_all())
    assert second.recorded_at > first.recorded_at
    assert await log.position_at(first.recorded_at) == Position(1)
    assert await log.position_at(second.recorded_at + timedelta(days=1)) == Position(2)
    assert await log.verify() == []


def test_a_derived_id_leads_back_to_its_request() -> None:
    ((row, _),) = rows(1)
    assert ids.base_of(row.lines[0].event_id.bytes) == (row.origin.id, 1)


def test_of_large_rows_fewer_are_read_at_a_time() -> None:
    tail, decider = Tail(), InMemoryEventStore()._decider
    for _ in range(200):
        unit = command()
        unit.entries[0].data = b'"' + b"x" * 100_000 + b'"'
        decided = decider.decide(unit, 1, lambda committed, error: None)
        assert decided.row is not None
        tail.add(decided.row, decided.body)
    cursor = Cursor(Compiled(()), after=0, until=600)
    pages = []
    while not cursor.at_end:
        pages.append(len(cursor.page(tail, 64)))
    assert pages[0] == 64
    assert sum(pages) == 200
    assert max(pages[1:]) == BYTES_MAX // 100_002
