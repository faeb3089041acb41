"""Branches: what is seen from one, and that nobody else sees what happens on it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import (
    ConflictError,
    EventIdConflictError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
    ValidationError,
    WrongExpectedVersionError,
)
from ksi.core.events import Filter, NewEvent, Position, RecordedEvent
from ksi.core.ports import Journal
from ksi.core.views import View, ViewWriter
from ksi.store import branch_tables
from ksi.store.branch_tables import on_branches
from ksi.store.memory import InMemoryEventStore
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import added, listed


class Total(msgspec.Struct, frozen=True):
    stream: str
    events: int


class Totals(View[Total]):
    name = "totals"
    query = (Filter(streams=("counter/*",)),)
    record = Total
    key = ("stream",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        before = writer.get(event.stream)
        writer.put(Total(event.stream, 1 if before is None else before.events + 1))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        async with InMemoryEventStore() as memory:
            yield memory
    elif request.param == "postgres":
        async with PostgresEventStore.open(request.getfixturevalue("url")) as postgres:
            yield postgres
    else:
        async with SqliteEventStore.open(tmp_path / "events.db") as sqlite:
            yield sqlite


async def versions(store: Journal, stream: str, branch: str) -> list[int]:
    return [event.version async for event in store.read_stream(stream, branch=branch)]


async def test_a_branch_sees_what_there_was_and_goes_on_by_itself(store: Journal) -> None:
    cut = (await store.append("counter/a", [added(), added()])).positions[0]
    await store.fork(cut, "exp")
    await store.append("counter/a", [added()], branch="exp")
    assert await versions(store, "counter/a", "main") == [1, 2]
    assert await versions(store, "counter/a", "exp") == [1, 2]  # the second is its own
    assert [event.branch async for event in store.read_stream("counter/a", branch="exp")] == ["main", "exp"]
    assert len(await listed(store.read_all(branch="exp"))) == 2
    assert {event.branch for event in await listed(store.read_all())} == {"main"}


async def test_a_stream_may_have_any_name(store: Journal) -> None:
    odd = "counter/a\x1fb"
    await store.append(odd, [added()])
    await store.fork(Position(1), "exp")
    await store.append(odd, [added(2)], branch="exp")
    for branch, version in (("main", 1), ("exp", 2)):
        (found,) = await listed(store.streams("counter/*", branch=branch))
        assert (found.name, found.version) == (odd, version)


async def test_versions_are_expected_of_the_branch(store: Journal) -> None:
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "exp")
    await store.append("counter/a", [added()])
    assert (await store.append("counter/a", [added()], expected_version=1, branch="exp")).versions == (2,)
    with pytest.raises(WrongExpectedVersionError):
        await store.append("counter/a", [added()], expected_version=1)
    assert await store.version("counter/a", branch="exp") == 2


async def test_a_branch_of_a_branch_sees_both_up_to_their_cuts(store: Journal) -> None:
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "one")
    own = await store.append("counter/a", [added()], branch="one")
    await store.fork(own.positions[0], "two", parent="one")
    await store.append("counter/a", [added()], branch="one")
    await store.append("counter/b", [added()], branch="two")
    assert await versions(store, "counter/a", "two") == [1, 2]
    assert [info.name async for info in store.streams("counter/*", branch="two")] == ["counter/a", "counter/b"]
    assert [info.name async for info in store.streams("counter/*", branch="one")] == ["counter/a"]


async def test_views_are_those_of_the_branch(store: Journal) -> None:
    store.register(Totals)
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "exp")
    await store.append("counter/a", [added()], branch="exp")
    assert await store.view(Totals).get("counter/a") == Total("counter/a", 1)
    assert await store.view(Totals, branch="exp").get("counter/a") == Total("counter/a", 2)
    await store.append("counter/a", [added()], branch="exp")
    assert (await store.view(Totals, branch="exp").scan()).records == [Total("counter/a", 3)]


async def test_a_subscription_follows_its_branch_only(store: Journal) -> None:
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "exp")
    async with store.subscribe(after="start", branch="exp") as events, store.subscribe(after="start") as main:
        await store.append("counter/a", [added()], branch="exp")
        await store.append("counter/b", [added()])
        followed = aiter(events)
        assert [(await anext(followed)).branch for _ in range(2)] == ["main", "exp"]
        seen = aiter(main)
        streams = [(await anext(seen)).stream for _ in range(3)]
        assert streams == ["counter/a", "$branches", "counter/b"]


async def test_checkpoints_are_those_of_the_branch(store: Journal) -> None:
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "exp")
    await store.append_all((), checkpoint=("audit", Position(1)), branch="exp")
    assert (await store.checkpoint("audit", branch="exp"), await store.checkpoint("audit")) == (1, None)


async def test_an_id_can_not_be_used_on_another_branch(store: Journal) -> None:
    first = (await store.append("counter/a", [added()])).positions[0]
    await store.fork(first, "exp")
    event = await store.at(first)
    assert event is not None
    again = NewEvent(name=event.name, data=event.raw, event_id=event.event_id)
    with pytest.raises(EventIdConflictError):
        await store.append("counter/a", [again], branch="exp")


async def test_what_is_discarded_is_not_there_and_its_name_is_not_given_again(store: Journal) -> None:
    await store.append("counter/a", [added()])
    await store.fork(Position(1), "exp")
    await store.fork(Position(1), "child", parent="exp")
    assert [info.name for info in await store.branches()] == ["main", "exp", "child"]
    await store.discard("exp")
    for refused in (store.append("counter/a", [added()], branch="exp"), store.discard("exp"), store.discard("main")):
        with pytest.raises(NotFoundError):
            await refused
    with pytest.raises(ConflictError):
        await store.fork(Position(1), "exp")
    assert await versions(store, "counter/a", "child") == [1]


@pytest.mark.parametrize(("at", "name"), [(99, "exp"), (-1, "exp"), (1, "No Name"), (1, ""), (1, "$own")])
async def test_a_fork_that_can_not_be_is_refused(store: Journal, at: int, name: str) -> None:
    await store.append("counter/a", [added()])
    with pytest.raises(ValidationError):
        await store.fork(Position(at), name)


async def test_branches_are_there_again_after_a_restart_and_the_log_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await store.append("counter/a", [added(), added()])
        await store.fork(Position(1), "exp")
        await store.append("counter/a", [added(), added()], branch="exp")
    async with SqliteEventStore.open(path) as store:
        assert await versions(store, "counter/a", "exp") == [1, 2, 3]
        assert (await store.append("counter/a", [added()], branch="exp")).versions == (4,)
        assert (await store.append("counter/a", [added()])).versions == (3,)
        assert await store.verify() == []


steps = st.lists(
    st.tuples(st.sampled_from(["append", "fork"]), st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 40)),
    max_size=25,
)


@given(steps)
@settings(deadline=None)
async def test_branches_are_what_copies_would_be(steps: list[tuple[str, int, str, int]]) -> None:
    """The model: each branch is a list of its own, copied up to the cut when it is made."""
    async with InMemoryEventStore() as store:
        model: dict[str, list[tuple[int, str]]] = {"main": []}
        for number, (what, which, stream, at) in enumerate(steps):
            branch = list(model)[which % len(model)]
            if what == "append":
                appended = await store.append(f"counter/{stream}", [added()], branch=branch)
                model[branch].append((appended.positions[0], f"counter/{stream}"))
            else:
                first = next((info.forked_at or 0 for info in await store.branches() if info.name == branch), 0)
                cut = min(max(at, first), store.visible_head())
                await store.fork(Position(cut), f"b{number}", parent=branch)
                model[f"b{number}"] = [event for event in model[branch] if event[0] <= cut]
        for branch, expected in model.items():
            query: Any = [Filter(streams=("counter/*",))]
            found = await listed(store.read_all(query, branch=branch))
            assert [(event.position, event.stream) for event in found] == expected
            for stream in ("counter/a", "counter/b"):
                count = sum(each == stream for _, each in expected)
                assert await versions(store, stream, branch) == list(range(1, count + 1))


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Watched(Totals):
    """Says which events it has taken."""

    name = "watched"
    taken: ClassVar[list[int]] = []

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        self.taken.append(event.position)
        super().apply(writer, event)


async def forked(store: Journal) -> None:
    store.register(Watched)
    await store.append("counter/a", [added(), added()])
    await store.fork(Position(2), "exp")
    await store.append("counter/a", [added()], branch="exp")
    await store.append("counter/b", [added()])


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """Opens the same log, as often as it is called."""
    if request.param == "sqlite":
        return partial(SqliteEventStore.open, tmp_path / "events.db")
    return partial(PostgresEventStore.open, request.getfixturevalue("url"), keys=tmp_path / "keys")


async def test_a_materialized_branch_is_not_folded_again_by_the_next_start(opened: Any) -> None:
    async with opened() as store:
        await forked(store)
        assert await store.materialize("exp") == ["watched"]
        await store.append("counter/a", [added()], branch="exp")
    Watched.taken.clear()
    async with opened() as store:
        store.register(Watched)
        on_main, on_branch = store.view(Watched), store.view(Watched, branch="exp")
        assert await on_branch.get("counter/a") == Total("counter/a", 4)
        assert Watched.taken == [7]
        assert await on_main.get("counter/a") == Total("counter/a", 2)
        assert await on_branch.get("counter/b") is None
        assert (await on_branch.scan()).records == [Total("counter/a", 4)]
        assert await store.verify() == []


async def test_a_table_of_a_branch_follows_it_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_tables, "BEHIND_MAX", 3)
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await forked(store)
        await store.materialize("exp")
        for _ in range(10):
            await store.append("counter/a", [added()], branch="exp")
            await store.view(Watched, branch="exp").get("counter/a")
    Watched.taken.clear()
    async with SqliteEventStore.open(path) as store:
        store.register(Watched)
        assert await store.view(Watched, branch="exp").get("counter/a") == Total("counter/a", 13)
        assert len(Watched.taken) < 3


async def test_the_tables_of_a_branch_go_with_it(opened: Any) -> None:
    async with opened() as store:
        await forked(store)
        await store.materialize("exp")
        assert on_branches(store._tables(), "exp")
        await store.discard("exp")
        assert on_branches(store._tables(), "exp") == []
        with pytest.raises(NotFoundError):
            await store.materialize("exp")
        with pytest.raises(NotFoundError):
            await store.materialize("main")


def tables(path: Path) -> list[str]:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return [str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


async def test_a_damaged_table_of_a_branch_is_not_served(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await forked(store)
        await store.materialize("exp")
    table = next(name for name in tables(path) if "exp" in name)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"UPDATE \"{table}\" SET data = replace(data, CAST('3' AS BLOB), CAST('9' AS BLOB))")
    async with SqliteEventStore.open(path) as store:
        store.register(Watched)
        with pytest.raises(UnavailableError):
            await store.view(Watched, branch="exp").get("counter/a")
        assert await store.view(Watched, branch="exp").get("counter/a") == Total("counter/a", 3)
        assert await store.verify() == []


async def test_what_is_erased_is_in_no_table_of_a_branch(opened: Any) -> None:
    async with opened() as store:
        store.register(Totals)
        await store.append("counter/a", [added(subject="person/1"), added()])
        await store.fork(Position(2), "exp")
        await store.materialize("exp")
        await store.erase_subject("person/1")
        assert on_branches(store._tables(), "exp") == []
        assert await store.view(Totals, branch="exp").get("counter/a") == Total("counter/a", 1)


async def test_in_memory_a_branch_has_no_tables() -> None:
    async with InMemoryEventStore() as store:
        await forked(store)
        with pytest.raises(UnsupportedError):
            await store.materialize("exp")
        assert await store.view(Watched, branch="exp").get("counter/a") == Total("counter/a", 3)
