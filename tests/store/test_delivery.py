"""What a subscriber with a name is given, and what becomes of its acknowledgements when something is in the way."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ksi.core.errors import OverloadedError, UnavailableError
from ksi.core.events import Position
from ksi.core.threads import SystemThreads
from ksi.store import acks, parked
from ksi.store.delivery import ATTEMPTS_MAX
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import PROBE_PAUSE, SqliteEventStore
from ksi.testing.counters import added
from ksi.testing.loop import ManualClock
from ksi.testing.subscriber_contracts import taken
from tests.store.test_full_disk import fill, full_disk

NAME = "mailer"


@pytest.mark.virtual
@pytest.mark.leakcheck
async def test_what_fails_each_time_is_parked_after_five_attempts() -> None:
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(1), added(2)])
        given = []
        async with asyncio.timeout(60), store.subscribe(subscriber=NAME) as subscription:
            async for event in subscription:
                given.append(event.data["amount"])
                if event.data["amount"] == 2:
                    await subscription.ack(event)
                else:
                    await subscription.nack(event, "retry", f"attempt {given.count(1)}")
                if given.count(1) == ATTEMPTS_MAX:
                    break
            assert subscription.acknowledged == subscription.position
        assert given == [1, 2, 1, 1, 1, 1]
        (put_aside,) = await store.parked(NAME)
        assert (put_aside.position, put_aside.reason) == (1, "attempt 5")
        assert await store.checkpoint(NAME) >= 2  # type: ignore[operator]  # there is one


@pytest.mark.virtual
async def test_an_event_that_waits_for_its_next_attempt_comes_again_after_a_restart() -> None:
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(1)])
        async with store.subscribe(subscriber=NAME) as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.nack(event, "retry", "not now")
        async with store.subscribe(subscriber=NAME) as subscription:
            assert [event async for event in taken(subscription, 1)] == [event]


async def test_what_is_passed_over_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(1)])
        async with store.subscribe(subscriber=NAME) as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            with caplog.at_level(logging.WARNING, "ksi.store"):
                await subscription.nack(event, "skip", "an old one")
        assert caplog.messages == ["subscriber mailer passes over @1: an old one"]
        assert await store.checkpoint(NAME) == 1


async def test_one_that_never_acknowledges_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acks, "UNACKED_MAX", 3)
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(n) for n in range(5)])
        async with store.subscribe(subscriber=NAME) as subscription:
            with pytest.raises(OverloadedError):
                [event async for event in taken(subscription, 5)]
        async with store.subscribe(after="start") as subscription:
            assert len([event async for event in taken(subscription, 5)]) == 5


async def test_one_that_parks_too_much_is_told_so_and_keeps_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "PARKED_MAX", 1)
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(n) for n in range(2)])
        async with store.subscribe(subscriber=NAME) as subscription:
            first, second = [event async for event in taken(subscription, 2)]
            await subscription.nack(first, "park", "no")
            with pytest.raises(OverloadedError):
                await subscription.nack(second, "park", "no")
            assert subscription.acknowledged == first.position


async def test_acknowledgements_that_a_full_disk_refused_join_a_later_commit(tmp_path: Path) -> None:
    path, clock, threads = tmp_path / "events.db", ManualClock(), SystemThreads()
    async with SqliteEventStore.open(path, clock=clock, threads=threads) as store:
        await fill(store, 10)
        async with store.subscribe(subscriber=NAME) as subscription:
            events = [event async for event in taken(subscription, 10)]
            with full_disk(path, room=20_000):
                for event in events:
                    await subscription.ack(event)
                assert await fill(store) == (0, 300)
            assert await store.checkpoint(NAME) is None
            clock.advance(PROBE_PAUSE)
            with pytest.raises(UnavailableError):  # triggers the probe that ends it
                await store.append("counter/a", [added(1)])
            await threads.run("writer", int)
            await store.append("counter/a", [added(1)])
            assert await store.checkpoint(NAME) == events[-1].position
    threads.close()


async def test_what_tells_of_parked_events_is_never_parked() -> None:
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(1)])
        async with store.subscribe(subscriber=NAME) as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.nack(event, "park", "no")
        async with store.subscribe(after=Position(1), subscriber="watcher") as subscription:
            (told,) = [event async for event in taken(subscription, 1)]
            await subscription.nack(told, "park", "no")
        assert told.stream == "$parked/mailer"
        assert await store.parked("watcher") == []


async def test_why_an_event_was_parked_is_erased_with_the_person_that_it_is_about() -> None:
    async with InMemoryEventStore() as store:
        await store.append("counter/a", [added(1, subject="person/1")])
        async with store.subscribe(subscriber=NAME) as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.nack(event, "park", "1 is not what Ada pays")
        (fact,) = [fact async for fact in store.read_stream("$parked/mailer")]
        assert fact.subject == "person/1"
