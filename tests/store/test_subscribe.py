"""A subscriber reads the log for what it may want, and for nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from ksi.core.events import Filter, NewEvent, Query, RecordedEvent
from ksi.store.cursor import Cursor
from ksi.store.memory import InMemoryEventStore
from ksi.store.subscribe import LogSubscription

WANTED: Query = (Filter(names=("bell:*",)),)
RUNG, OTHER = NewEvent(name="bell:rung", data={}), NewEvent(name="door:opened", data={})


class CountingStore(InMemoryEventStore):
    """Counts how often it is read."""

    pages_read = 0

    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]:
        self.pages_read += 1
        return await super().page(cursor, count)


async def caught_up(subscription: LogSubscription, taken: list[str]) -> None:
    async for event in subscription:
        taken += [event.name]


@pytest.mark.virtual
async def test_facts_of_other_names_are_not_read_and_none_that_is_wanted_is_missed() -> None:
    async with CountingStore() as store, store.subscribe(WANTED, after="start") as subscription:
        taken: list[str] = []
        reading = asyncio.create_task(caught_up(subscription, taken))
        await store.append("bell/a", [RUNG])
        await subscription.wait_caught_up()
        before = store.pages_read
        for _ in range(20):
            await store.append("door/a", [OTHER])
            await subscription.wait_caught_up()
        assert (subscription.is_live, store.pages_read) == (True, before)
        await store.append("bell/a", [OTHER, RUNG])
        await subscription.wait_caught_up()
        assert (taken, store.pages_read > before) == (["bell:rung"] * 2, True)
        reading.cancel()


@pytest.mark.virtual
@pytest.mark.parametrize("wanted", [(), (Filter(kinds=("fact", "outcome")),), (Filter(correlation_id=str(uuid4())),)])
async def test_who_wants_more_than_names_reads(wanted: Query) -> None:
    async with CountingStore() as store, store.subscribe(wanted, after="end") as subscription:
        reading = asyncio.create_task(caught_up(subscription, []))
        await store.append("door/a", [OTHER])
        await subscription.wait_caught_up()
        assert store.pages_read > 0
        reading.cancel()


@pytest.mark.virtual
async def test_what_was_there_before_the_names_were_known_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ksi.store.named.NAMES_MAX", 2)
    async with CountingStore() as store, store.subscribe(WANTED, after="start") as subscription:
        await store.append("bell/a", [RUNG])
        for number in range(5):  # more names than are remembered
            await store.append("door/a", [NewEvent(name=f"door:opened_{number}", data={})])
        taken: list[str] = []
        reading = asyncio.create_task(caught_up(subscription, taken))
        await subscription.wait_caught_up()
        assert taken == ["bell:rung"]
        reading.cancel()


@pytest.mark.virtual
async def test_a_commit_wakes_only_those_who_wait_for_its_facts() -> None:
    async with CountingStore() as store, AsyncExitStack() as stack:
        names = [f"bell:number_{number}" for number in range(200)]
        taken: list[str] = []
        subscriptions = [
            await stack.enter_async_context(store.subscribe((Filter(names=(name,)),), after="end")) for name in names
        ]
        reading = [asyncio.create_task(caught_up(subscription, taken)) for subscription in subscriptions]
        await store.append("bell/a", [NewEvent(name=names[7], data={})])
        await subscriptions[7].wait_caught_up()
        before = store.pages_read
        await store.append("bell/a", [NewEvent(name=names[7], data={}), NewEvent(name=names[9], data={})])
        for subscription in subscriptions:
            await subscription.wait_caught_up()
        assert (sorted(taken), store.pages_read - before) == ([names[7], names[7], names[9]], 2)
        assert all(subscription.is_live for subscription in subscriptions)
        for each in reading:
            each.cancel()


@pytest.mark.virtual
async def test_a_name_that_nobody_had_seen_wakes_who_waits_for_its_pattern() -> None:
    async with InMemoryEventStore() as store, store.subscribe(WANTED, after="end") as subscription:
        taken: list[str] = []
        reading = asyncio.create_task(caught_up(subscription, taken))
        for name in ("bell:rung", "door:opened", "bell:cast", "bell:rung"):
            await store.append("bell/a", [NewEvent(name=name, data={})])
            await subscription.wait_caught_up()
        assert taken == ["bell:rung", "bell:cast", "bell:rung"]
        reading.cancel()


@pytest.mark.virtual
async def test_a_subscriber_that_left_is_woken_for_nothing_and_its_checkpoint_holds_what_it_passed_over() -> None:
    async with InMemoryEventStore() as store:
        async with store.subscribe(WANTED, after="start", subscriber="ringer") as subscription:
            reading = asyncio.create_task(caught_up(subscription, []))
            await store.append("door/a", [OTHER])
            await subscription.wait_caught_up()
            reading.cancel()
        assert await store.checkpoint("ringer") == 1
