"""What each log promises of views that are folded behind, and of their repair."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from ksi.core.errors import (
    EventTimeoutError,
    InternalError,
    NotFoundError,
)
from ksi.core.events import (
    NewEvent,
    Position,
    RecordedEvent,
    StreamAppend,
)
from ksi.core.ports import Journal
from ksi.core.views import ViewWriter
from ksi.testing.counters import Counter, CounterView, added, command, written


class Sums(CounterView):
    """The same sums, folded behind."""

    name = "sums"
    inline = False


class Careless(Sums):
    """Adds one too much for each amount over 100: a fault that a rebuild finds once it is mended."""

    faulty: ClassVar[bool] = True

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        super().apply(writer, event)
        known = writer.get(event.stream.partition("/")[2])
        if self.faulty and known is not None and event.data["amount"] > 100:
            writer.put(Counter(known.id, known.total + 1))


class CarelessInline(Careless):
    name = "careless_inline"
    inline = True


class ProjectionContract:
    """Views that are folded behind, and rebuilds."""

    @pytest.fixture(autouse=True)
    def careless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Careless, "faulty", True)

    async def caught_up(self, store: Journal, name: str = "sums") -> Position:
        head = await store.head()
        assert head is not None
        await store.projections.wait_for(name, head, timeout=10)
        return head

    async def test_it_is_folded_behind_from_what_is_there_on(self, store: Journal) -> None:
        await store.append_all([StreamAppend("counter/a", [added(1)] * 300)])
        store.register(Sums)
        assert (await store.projections.status("sums"))[0].state in ("catching_up", "live")
        await self.caught_up(store)
        await store.append("counter/b", [added(7)])
        head = await self.caught_up(store)
        assert (await store.view(Sums).scan()).records == [Counter("a", 300), Counter("b", 7)]
        (status,) = await store.projections.status("sums")
        assert (status.state, status.position, status.lag, status.lag_seconds) == ("live", head, 0, 0.0)
        assert (status.problem, status.parked) == (None, 0)

    async def test_one_that_does_not_come_so_far_in_time_is_said(self, store: Journal) -> None:
        store.register(Sums)
        with pytest.raises(EventTimeoutError) as caught:
            await store.projections.wait_for("sums", Position(1), timeout=0.01)
        assert "sums" in caught.value.message

    async def test_who_waits_for_one_that_is_loaded_again_waits_for_the_new_one(self, store: Journal) -> None:
        store.register(Sums)
        waiting = asyncio.ensure_future(store.projections.wait_for("sums", Position(1), timeout=10))
        await asyncio.sleep(0)
        store.unregister(Sums)
        store.register(Sums)
        await store.append("counter/a", [added(1)])
        await waiting
        waiting = asyncio.ensure_future(store.projections.wait_for("sums", Position(2), timeout=10))
        await asyncio.sleep(0)
        store.unregister(Sums)
        with pytest.raises(NotFoundError):
            await waiting

    async def test_its_position_moves_where_nothing_matches(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("note/1", [NewEvent(name="note:written", data={})] * 3)
        head = await self.caught_up(store)
        assert (await store.projections.status("sums"))[0].position == head

    async def test_an_inline_view_is_where_the_head_is(self, store: Journal) -> None:
        store.register(CounterView)
        await written(store, command())
        await self.caught_up(store, "counters")
        (status,) = await store.projections.status()
        assert (status.name, status.state, status.position) == ("counters", "inline", await store.head())

    async def test_an_unknown_projection_is_not_found(self, store: Journal) -> None:
        for asked in (
            store.projections.status("nobody"),
            store.projections.rebuild("nobody"),
            store.projections.wait_for("nobody", Position(1), 1),
        ):
            with pytest.raises(NotFoundError):
                await asked

    async def test_an_event_that_it_can_not_take_is_parked_and_it_goes_on(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        assert await store.view(Sums).get("a") == Counter("a", 3)
        (parked,) = await store.parked(store.projections.subscriber("sums"))
        assert (parked.position, parked.reason) == (2, "RuntimeError: this amount can not be added")
        (status,) = await store.projections.status("sums")
        assert (status.state, status.problem, status.parked) == ("live", parked.reason, 1)

    async def test_a_parked_event_is_tried_again(self, store: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added("poison"), added(2)])
        await self.caught_up(store)
        subscriber = store.projections.subscriber("sums")
        monkeypatch.setattr(Sums, "apply", forgiving)
        twice = await asyncio.gather(*(store.retry_parked(subscriber, Position(2)) for _ in range(2)))
        assert twice == [1, 1]
        async with asyncio.timeout(5):
            while len(await store.parked(subscriber)) > 1:  # noqa: ASYNC110  # its end is no event for this test
                await asyncio.sleep(0)
        assert await store.view(Sums).get("a") == Counter("a", 1003)
        assert await store.drop_parked(subscriber) == 1
        assert (await store.projections.status("sums"))[0].parked == 0

    async def test_what_was_given_up_is_not_parked_again(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        subscriber = store.projections.subscriber("sums")
        assert await store.drop_parked(subscriber) == 1
        await store.projections.rebuild("sums")
        assert await store.parked(subscriber) == []
        assert await store.view(Sums).get("a") == Counter("a", 3)

    @pytest.mark.parametrize("view", [Careless, CarelessInline])
    async def test_a_rebuild_says_what_differs_and_takes_the_place(
        self, store: Journal, view: type[Careless], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.register(view)
        names = [f"{n:03}" for n in range(300)]
        amounts = [101 if n % 100 == 0 else 5 for n in range(300)]
        for name, amount in zip(names, amounts, strict=True):
            await store.append(f"counter/{name}", [added(amount)])
        await self.caught_up(store, view.name)
        monkeypatch.setattr(Careless, "faulty", False)
        tried = await store.projections.rebuild(view.name, swap=False)
        assert (tried.records, tried.added, tried.removed, tried.changed) == (300, 0, 0, 3)
        first = tried.examples[0]
        assert (first.key, first.before, first.after) == (("000",), Counter("000", 102), Counter("000", 101))
        assert await store.view(view).get("000") == Counter("000", 102)
        reader = store.view(view)
        rebuilt = await store.projections.rebuild(view.name)
        assert (rebuilt.changed, rebuilt.swapped, tried.swapped) == (3, True, False)
        assert await reader.get("000") == await store.view(view).get("000") == Counter("000", 101)
        await store.append("counter/000", [added(1)])
        await self.caught_up(store, view.name)
        page = await store.view(view).scan("by_total", backwards=True, limit=3)
        assert [(record.id, record.total) for record in page.records] == [("000", 102), ("200", 101), ("100", 101)]
        again = await store.projections.rebuild(view.name)
        assert (again.records, again.changed, again.examples) == (300, 0, [])

    @pytest.mark.parametrize("view", [Sums, CounterView])
    async def test_facts_that_come_during_a_rebuild_are_in_both(self, store: Journal, view: type[CounterView]) -> None:
        store.register(view)
        await store.append_all([StreamAppend(f"counter/{n % 50}", [added(1)] * 20) for n in range(50)])

        async def go_on() -> None:
            for n in range(200):
                await store.append(f"counter/{n % 50}", [added(1)])

        rebuilt, _ = await asyncio.gather(store.projections.rebuild(view.name), go_on())
        assert (rebuilt.added, rebuilt.removed, rebuilt.changed) == (0, 0, 0)
        await self.caught_up(store, view.name)
        records = (await store.view(view).scan()).records
        assert {record.total for record in records} == {24}

    async def test_a_rebuild_of_one_that_is_being_rebuilt_is_a_conflict(self, store: Journal) -> None:
        store.register(CounterView)
        await store.append("counter/a", [added(1)] * 500)
        ends = await asyncio.gather(
            store.projections.rebuild("counters"), store.projections.rebuild("counters"), return_exceptions=True
        )
        assert [type(end).__name__ for end in ends] == ["Rebuilt", "ConflictError"]

    async def test_an_inline_view_that_can_not_be_rebuilt_stays(self, store: Journal) -> None:
        await store.append("counter/a", [added(1)])
        store.register(CounterView)
        await store.append("counter/a", [added(2)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CounterView, "apply", failing)
            with pytest.raises(InternalError) as caught:
                await store.projections.rebuild("counters")
        assert "@1" in caught.value.message
        await store.append("counter/a", [added(3)])
        assert await store.view(CounterView).get("a") == Counter("a", 6)

    async def test_a_rebuild_puts_a_parked_event_in_its_place(
        self, store: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        monkeypatch.setattr(Sums, "apply", forgiving)
        rebuilt = await store.projections.rebuild("sums")
        assert (rebuilt.changed, rebuilt.examples[0].after) == (1, Counter("a", 1003))
        assert await store.parked(store.projections.subscriber("sums")) == []
        monkeypatch.setattr(Sums, "apply", CounterView.apply)
        await store.projections.rebuild("sums")
        assert [each.position for each in await store.parked(store.projections.subscriber("sums"))] == [2]
        assert await store.view(Sums).get("a") == Counter("a", 3)


def forgiving(view: Sums, writer: ViewWriter, event: RecordedEvent) -> None:
    """Takes poison for a thousand."""
    known = writer.get(event.stream.partition("/")[2])
    amount = 1000 if event.data["amount"] == "poison" else event.data["amount"]
    writer.put(Counter(event.stream.partition("/")[2], amount + (known.total if known else 0)))


def failing(view: CounterView, writer: ViewWriter, event: RecordedEvent) -> None:
    raise RuntimeError("not today")
