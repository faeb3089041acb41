"""What each log promises to its subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ksi.core.errors import (
    CheckpointConflictError,
    NotFoundError,
    StoreClosedError,
    SubscriptionDroppedError,
    ValidationError,
)
from ksi.core.events import (
    Filter,
    Lag,
    NewEvent,
    Position,
    RecordedEvent,
    StreamAppend,
)
from ksi.core.ports import Journal, Subscription
from ksi.testing.counters import COUNTER, added, listed


class SubscriberContract:
    """Subscriptions and checkpoints."""

    async def test_a_subscription_catches_up_then_goes_on_live(self, store: Journal) -> None:
        await store.append_all([StreamAppend("counter/a", [added(n) for n in range(600)])])
        seen: list[int] = []
        async with store.subscribe([Filter(names=(COUNTER,))], after="start", buffer=100) as subscription:
            events = aiter(subscription)
            while len(seen) < 600:
                seen.append((await anext(events)).data["amount"])
            later = asyncio.ensure_future(anext(events))
            await store.append("note/1", [NewEvent(name="note:written", data={})])
            await store.append("counter/a", [added(600)])
            seen.append((await later).data["amount"])
            assert subscription.is_live
        assert seen == list(range(601))

    async def test_the_position_moves_where_nothing_matches(self, store: Journal) -> None:
        async with store.subscribe([Filter(names=("nobody:here",))], after="start") as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            appended = await store.append("counter/a", [added()])
            assert await subscription.wait_caught_up(5) == appended.positions[0]
            waiting.cancel()

    async def test_the_end_is_what_comes_after_now(self, store: Journal) -> None:
        await store.append("counter/a", [added(1)])
        async with store.subscribe(after="end") as subscription:
            await store.append("counter/a", [added(2)])
            assert (await anext(aiter(subscription))).data == {"amount": 2}

    async def test_what_is_acknowledged_is_where_the_subscriber_goes_on(self, store: Journal) -> None:
        await store.append("counter/a", [added(1), added(2)])
        async with store.subscribe(subscriber="mailer") as subscription:
            await subscription.ack(await anext(aiter(subscription)))
        async with store.subscribe(subscriber="mailer") as subscription:
            assert (await anext(aiter(subscription))).data == {"amount": 2}
        assert await store.checkpoint("mailer") == 1
        await store.reset_checkpoint("mailer", None)
        assert await store.checkpoint("mailer") is None

    async def test_a_checkpoint_commits_with_events_and_only_forwards(self, store: Journal) -> None:
        await store.append("note/1", [NewEvent(name="note:written", data={})] * 5)
        appends = [StreamAppend("counter/a", [added()])]
        with pytest.raises(ValidationError):
            await store.append_all(appends, checkpoint=("fold", Position(6)))
        await store.append_all(appends, checkpoint=("fold", Position(5)))
        assert await store.checkpoint("fold") == 5
        for position in (5, 4):
            with pytest.raises(CheckpointConflictError) as caught:
                await store.append_all(appends, checkpoint=("fold", Position(position)))
            assert caught.value.actual == 5
        assert await store.version("counter/a") == 1
        await store.reset_checkpoint("fold", Position(2))
        for nowhere in (7, -1):
            with pytest.raises(ValidationError):
                await store.reset_checkpoint("fold", Position(nowhere))
        await store.append_all(appends, checkpoint=("fold", Position(3)))
        assert await store.checkpoint("fold") == 3

    async def test_a_slow_subscriber_may_lose_the_oldest(self, store: Journal) -> None:
        with pytest.raises(ValidationError):
            store.subscribe(overflow="dropp")  # type: ignore[arg-type]  # what is refused is that
        await store.append("counter/a", [added(0)])
        async with store.subscribe(after="start", buffer=3, overflow="drop") as subscription:
            events = aiter(subscription)
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await store.append("counter/a", [added(1)])
            await waiting
            await store.append("counter/a", [added(n) for n in range(2, 12)])
            assert [(await anext(events)).data["amount"] for _ in range(3)] == [9, 10, 11]
            assert subscription.dropped == 7

    async def test_a_slow_subscriber_may_be_told_where_to_go_on(self, store: Journal) -> None:
        async with store.subscribe(after="start", buffer=3, overflow="disconnect") as subscription:
            events = aiter(subscription)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            first = await store.append("counter/a", [added(0)])
            await waiting
            await store.append("counter/a", [added(n) for n in range(2, 12)])
            with pytest.raises(SubscriptionDroppedError) as caught:
                await anext(events)
            assert caught.value.resume_after == first.positions[0]

    async def test_closing_the_store_ends_a_subscription(self, store: Journal) -> None:
        async with store.subscribe() as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreClosedError):
                await waiting


class DeliveryContract:
    """Acknowledging, giving again, parking."""

    @pytest.fixture
    async def six(self, store: Journal) -> Journal:
        await store.append("counter/a", [added(n) for n in range(6)])
        return store

    async def test_a_checkpoint_stays_below_what_is_not_done(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            events = [event async for event in taken(subscription, 5)]
            for done in (events[1], events[3], events[2]):
                await subscription.ack(done)
            assert subscription.acknowledged == events[0].position - 1
            await subscription.ack(events[0])
            await subscription.ack(events[0])
            assert subscription.acknowledged == events[3].position
            assert subscription.position == events[4].position
        assert await six.checkpoint("mailer") == events[3].position
        async with six.subscribe(subscriber="mailer") as subscription:
            again = [event async for event in taken(subscription, 2)]
        assert [event.position for event in again] == [events[4].position, events[4].position + 1]

    async def test_an_acknowledgement_joins_the_next_commit(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            assert await six.checkpoint("mailer") is None
            await six.append("note/1", [NewEvent(name="note:written", data={})])
            assert await six.checkpoint("mailer") == event.position

    async def test_an_acknowledgement_that_finds_no_commit_makes_one(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            async with asyncio.timeout(5):
                while await six.checkpoint("mailer") != event.position:  # noqa: ASYNC110  # a checkpoint is no event
                    await asyncio.sleep(0)

    async def test_closing_the_log_stores_what_was_acknowledged(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            await six.close()
        assert await six.checkpoint("mailer") == event.position

    async def test_the_checkpoint_moves_where_nothing_matches(self, six: Journal) -> None:
        nothing = [Filter(names=("nobody:here",))]
        async with six.subscribe(nothing, subscriber="idle") as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            head = await subscription.wait_caught_up(5)
            waiting.cancel()
        assert await six.checkpoint("idle") == head == await six.head()

    async def test_only_a_subscriber_with_a_name_acknowledges(self, six: Journal) -> None:
        async with six.subscribe(after="start") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            with pytest.raises(ValueError, match="subscriber="):
                await subscription.ack(event)

    async def test_what_is_to_be_retried_comes_again_and_holds_nobody_up(self, six: Journal) -> None:
        async with asyncio.timeout(10), six.subscribe(subscriber="mailer") as subscription:
            events = aiter(subscription)
            first = await anext(events)
            with pytest.raises(ValidationError):
                await subscription.nack(first, "retri", "not yet")  # type: ignore[arg-type]  # what is refused is that
            await subscription.nack(first, "retry", "not yet")
            others = [await anext(events) for _ in range(5)]
            assert [event.data["amount"] for event in others] == [1, 2, 3, 4, 5]
            for event in others:
                await subscription.ack(event)
            assert subscription.acknowledged < first.position
            assert await anext(events) == first
            await subscription.ack(first)
            assert subscription.acknowledged == others[-1].position

    async def test_a_parked_event_is_a_fact_with_its_cause_and_is_not_given_again(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            second = [event async for event in taken(subscription, 2)][1]
            await subscription.nack(second, "park", "no such address")
        (fact,) = await listed(six.read_stream("$parked/mailer"))
        assert (fact.name, fact.causation_id) == ("subscription:parked", second.event_id)
        assert (fact.data["position"], fact.data["reason"]) == (second.position, "no such address")
        (parked,) = await six.parked("mailer")
        assert (parked.position, parked.event_id, parked.name) == (second.position, second.event_id, COUNTER)
        assert (parked.reason, parked.parked_at) == ("no such address", fact.recorded_at)
        async with six.subscribe(subscriber="mailer") as subscription:
            again = [event.data["amount"] async for event in taken(subscription, 3)]
        assert again == [0, 2, 3]
        assert await six.checkpoint("mailer") in (None, 0)

    async def test_a_parked_event_is_given_again_when_it_is_asked_for(self, six: Journal) -> None:
        async with asyncio.timeout(5), six.subscribe(subscriber="mailer") as subscription:
            events = aiter(subscription)
            seen = [await anext(events) for _ in range(6)]
            for event in seen:
                await subscription.nack(event, "park" if event in seen[1:3] else "skip", "no such address")
            waiting = asyncio.ensure_future(anext(events))
            assert await six.retry_parked("mailer", seen[1].position) == 1
            given = await waiting
            assert given == seen[1]
            await subscription.ack(given)
            assert [parked.position for parked in await six.parked("mailer")] == [seen[2].position]
        assert await six.retry_parked("mailer") == 1
        async with asyncio.timeout(5), six.subscribe(subscriber="mailer") as subscription:
            assert await anext(aiter(subscription)) == seen[2]
        (left,) = await six.parked("mailer")
        assert left.is_retried
        assert await six.drop_parked("mailer", reason="an old one") == 1
        assert await six.parked("mailer") == []
        with pytest.raises(NotFoundError):
            await six.retry_parked("mailer", seen[2].position)

    async def test_the_lag_is_what_is_not_done(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            assert (await subscription.lag()).events == 6
            events = [event async for event in taken(subscription, 6)]
            assert subscription.is_live
            for event in events[:4]:
                await subscription.ack(event)
            behind = await subscription.lag()
            assert (behind.events, behind.seconds >= 0) == (2, True)
            for event in events[4:]:
                await subscription.ack(event)
            assert await subscription.lag() == Lag(0, 0.0)


async def taken(subscription: Subscription, count: int) -> AsyncIterator[RecordedEvent]:
    """The next ``count`` events; they must be there."""
    async with asyncio.timeout(5):
        events = aiter(subscription)
        for _ in range(count):
            yield await anext(events)
