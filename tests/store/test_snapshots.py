"""A question about the past begins at the nearest snapshot, and is answered as if there were none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.events import Filter, NewEvent, Position, Query, RecordedEvent
from ksi.core.ports import Journal
from ksi.core.views import FoldKey, JsonState, Snapshot
from ksi.store import folding
from ksi.store.backup import restore
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.folding import EVERY
from ksi.store.offline import verify_file
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import COUNTER, added, listed

EVENTS = 1_000


class Total(JsonState[list[int]]):
    """Sum and count; ``applied`` counts the work."""

    name = "total"
    query: Query = (Filter(names=(COUNTER,)),)
    state = list[int]

    def __init__(self) -> None:
        self.applied = 0

    def initial(self) -> list[int]:
        return [0, 0]

    def apply(self, state: list[int], event: RecordedEvent) -> list[int]:
        self.applied += 1
        return [state[0] + event.data["amount"], state[1] + 1]


class Texts(JsonState[dict[str, str]]):
    category = "note"
    state = dict[str, str]

    def __init__(self) -> None:
        self.applied = 0

    def initial(self) -> dict[str, str]:
        return {}

    def apply(self, state: dict[str, str], event: RecordedEvent) -> dict[str, str]:
        self.applied += 1
        return {**state, **event.data}


async def counted(store: Journal, events: int = EVENTS) -> None:
    for start in range(0, events, 100):
        await store.append("counter/a", [added(start + number) for number in range(min(100, events - start))])


def total_at(position: int) -> list[int]:
    return [sum(range(position)), position]


async def written(store: Any) -> None:
    """Until what was handed over is on disk."""
    await store._threads.run("writer", lambda: None)


async def test_states_at_random_positions_cost_no_more_than_the_way_from_a_snapshot(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await counted(store)
        debugger, fold, random = TimeTravelDebugger(store), Total(), Random(7)
        assert await debugger.state_at(fold) == total_at(EVENTS)
        assert fold.applied == EVENTS
        await written(store)
        for _ in range(50):
            fold.applied, at = 0, random.randrange(1, EVENTS + 1)
            assert await debugger.state_at(fold, Position(at)) == total_at(at)
            assert fold.applied <= EVERY
        assert await store.verify() == []


async def test_in_postgresql_too(url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        await counted(store)
        assert await TimeTravelDebugger(store).state_at(Total()) == total_at(EVENTS)
        await written(store)
    async with PostgresEventStore.open(url) as store:
        fold, debugger = Total(), TimeTravelDebugger(store)
        for at in (EVENTS, 700, 129, 5):
            fold.applied = 0
            assert await debugger.state_at(fold, Position(at)) == total_at(at)
            assert fold.applied <= EVERY
        assert await store.verify() == []
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE ksi.snapshots SET state = '[0,7]' WHERE pos = 640")
        (problem,) = await store.verify()
        assert "@640" in problem
        fold.applied = 0
        assert await debugger.state_at(fold, Position(700)) == total_at(700)
        assert fold.applied == 700


async def test_an_entity_has_snapshots_of_its_own_on_each_branch(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        fold = Texts()

        async def at(position: int | None, branch: str = "main") -> int:
            fold.applied = 0
            debugger = TimeTravelDebugger(store, lambda category: fold, branch=branch)
            state = (await debugger.entity_at("note/1", None if position is None else Position(position))).state
            return int(state["n"])

        notes = [NewEvent(name="note:put", data={"n": str(number)}) for number in range(1, 301)]
        await store.append("note/1", notes)
        await store.append("note/2", notes)
        await store.fork(Position(300), "exp")
        await store.append("note/1", [NewEvent(name="note:put", data={"n": "-1"})], branch="exp")
        assert (await at(None), await at(None, "exp")) == (300, -1)
        await written(store)
        assert await at(260) == 260
        assert fold.applied == 260 - 2 * EVERY
        assert await at(260, "exp") == 260
        assert fold.applied == 260 - 2 * EVERY
        assert await at(None, "exp") == -1
        assert fold.applied == 301 - 2 * EVERY


async def test_another_version_of_a_fold_begins_anew(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await counted(store)
        await TimeTravelDebugger(store).state_at(Total())
        await written(store)
        fold = Total()
        fold.version = 2
        assert await TimeTravelDebugger(store).state_at(fold) == total_at(EVENTS)
        assert fold.applied == EVENTS


async def test_large_states_are_kept_less_often(tmp_path: Path) -> None:
    class Wide(Total):
        def apply(self, state: list[int], event: RecordedEvent) -> list[int]:
            return [*state, 10**9]

    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await counted(store, 2_000)
        await TimeTravelDebugger(store).state_at(Wide())
        await written(store)
        found = list(store._point.execute("SELECT pos, length(state) FROM snapshots ORDER BY pos"))
    assert sum(size for _, size in found) <= 2 * 2_000 * folding.BYTES_EACH


@settings(max_examples=20, deadline=None)
@given(amounts=st.lists(st.integers(-9, 9), min_size=1, max_size=60), asked=st.lists(st.integers(1, 60), max_size=8))
async def test_with_snapshots_it_says_what_it_says_without(
    tmp_path_factory: pytest.TempPathFactory, amounts: Sequence[int], asked: Sequence[int]
) -> None:
    directory, every = tmp_path_factory.mktemp("folds"), folding.EVERY
    folding.EVERY = 3
    try:
        async with SqliteEventStore.open(directory / "events.db") as store:
            await store.append("counter/a", [added(amount) for amount in amounts])
            for wanted in (*asked, *asked):
                at = min(wanted, len(amounts))
                upto = amounts[:at]
                assert await TimeTravelDebugger(store).state_at(Total(), Position(at)) == [sum(upto), len(upto)]
                await written(store)
    finally:
        folding.EVERY = every


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def with_snapshots(path: Path) -> None:
    async with SqliteEventStore.open(path) as store:
        await counted(store)
        await TimeTravelDebugger(store).state_at(Total())


def changed(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshots SET state = CAST('[1,900]' AS BLOB) WHERE pos = 896",
        "UPDATE snapshots SET pos = 897 WHERE pos = 896",
        "UPDATE snapshots SET digest = zeroblob(16) WHERE pos = 896",
        "UPDATE snapshots SET state = CAST(state || x'20' AS BLOB) WHERE pos = 896",
    ],
)
async def test_a_wrong_snapshot_is_named_and_passed_over(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "events.db"
    await with_snapshots(path)
    changed(path, statement)
    (problem,) = verify_file(path).problems
    assert problem.startswith("the snapshot of total @89")
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == [problem]
        assert await TimeTravelDebugger(store).state_at(Total(), Position(950)) == total_at(950)


async def test_a_snapshot_beyond_the_head_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await with_snapshots(path)
    async with SqliteEventStore.open(path) as store:
        store.snapshots.keep(FoldKey("total", 1, "main"), [Snapshot(Position(5_000), b"[0,0]")])
    assert "beyond the head" in verify_file(path).problems[0]


# ── what they hold ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_an_erasure_drops_them_and_keeps_those_out_that_are_on_their_way(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await store.append("counter/a", [added(1, subject="person/1"), *(added(2) for _ in range(300))])
        fold = Total()
        assert await TimeTravelDebugger(store).state_at(fold) == [601, 301]
        await written(store)
        before = store.snapshots
        await store.erase_subject("person/1")
        before.keep(FoldKey("total", 1, "main"), [Snapshot(Position(300), b"[599,300]")])
        await written(store)
        assert await TimeTravelDebugger(store).state_at(fold) == [600, 300]
        assert len(await listed(store.read_all())) == 301


async def test_a_backup_holds_none(tmp_path: Path) -> None:
    await with_snapshots(tmp_path / "events.db")
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await store.backup(tmp_path / "copy.db")
    restore(tmp_path / "copy.db", tmp_path / "again.db")
    async with SqliteEventStore.open(tmp_path / "again.db") as store:
        fold = Total()
        assert await TimeTravelDebugger(store).state_at(fold) == total_at(EVENTS)
        assert fold.applied == EVENTS


class Doubled(Total):
    """The same fold, changed, and its version forgotten."""

    def apply(self, state: list[int], event: RecordedEvent) -> list[int]:
        self.applied += 1
        return [state[0] + 2 * event.data["amount"], state[1] + 1]


async def test_snapshots_of_another_code_are_found_by_building_them_again(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await counted(store, 300)
        debugger = TimeTravelDebugger(store)
        assert await debugger.wrong_snapshots(Total()) == []
        assert await debugger.snapshot(Total(), Position(70)) == 70
        await written(store)
        await debugger.state_at(Total())
        await written(store)
        fold = Total()
        assert await debugger.state_at(fold, Position(71)) == total_at(71)
        assert fold.applied == 1
        assert await debugger.wrong_snapshots(Total()) == []
        assert await debugger.wrong_snapshots(Doubled()) == [70, 198]
