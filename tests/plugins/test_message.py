"""Messages: those who follow a topic miss none, and a message in a queue has one taker, or ends in time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import OverloadedError, PayloadTooLargeError, ValidationError
from ksi.plugins import message
from ksi.plugins.message import Message
from ksi.testing.harness import EventTestHarness

TAKE = "01a00000-0000-7000-8000-000000000007"


@pytest.fixture
async def ksi() -> AsyncIterator[EventTestHarness]:
    async with EventTestHarness(Message) as ksi:
        yield ksi


async def publish(ksi: EventTestHarness, topic: str, *words: str) -> None:
    for word in words:
        await ksi.request("message:publish", {"topic": topic, "data": {"word": word}})


async def queue(ksi: EventTestHarness, *words: str, ttl: float = 60) -> None:
    for word in words:
        await ksi.request("message:queue", {"queue": "ada", "data": {"word": word}, "ttl": ttl})


async def take(ksi: EventTestHarness, limit: int = 1, event_id: str | None = None) -> list[str]:
    taken = await ksi.request("message:take", {"queue": "ada", "limit": limit}, event_id=event_id)
    return [each["data"]["word"] for each in taken["messages"]]


async def followed(ksi: EventTestHarness, last: str, **asked: str) -> list[str]:
    """The words that a follower is given, up to ``last``."""
    chunks = ksi.stream("message:subscribe", asked)
    words = []
    async for chunk in chunks:
        words.append(chunk["data"]["word"])
        if words[-1] == last:
            chunks.disconnect()
            return words
    raise AssertionError("it ended")


# ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_follower_sees_what_was_said_and_what_comes(ksi: EventTestHarness) -> None:
    await publish(ksi, "sea", "calm", "wind")
    following = asyncio.ensure_future(followed(ksi, "storm", topic="sea", after="start"))
    await publish(ksi, "land", "dust")
    await publish(ksi, "sea", "storm")
    assert await following == ["calm", "wind", "storm"]


async def test_topics_are_followed_by_a_pattern(ksi: EventTestHarness) -> None:
    await publish(ksi, "news.sea", "calm")
    await publish(ksi, "old.sea", "wreck")
    await publish(ksi, "news.land", "dust")
    assert await followed(ksi, "dust", topic="news.*", after="start") == ["calm", "dust"]


async def test_a_subscriber_that_was_away_goes_on_where_it_stopped_also_over_a_crash(ksi: EventTestHarness) -> None:
    await publish(ksi, "sea", "one", "two")
    assert await followed(ksi, "two", topic="sea", subscriber="ada", after="checkpoint") == ["one", "two"]
    await ksi.crash()
    await publish(ksi, "sea", "three")
    words = await followed(ksi, "three", topic="sea", subscriber="ada", after="checkpoint")
    assert words in (["three"], ["two", "three"])  # at least once: the last one may come again


async def test_a_checkpoint_belongs_to_somebody(ksi: EventTestHarness) -> None:
    with pytest.raises(ValidationError):
        await followed(ksi, "calm", topic="sea", after="checkpoint")


async def test_the_sender_is_who_asked(ksi: EventTestHarness) -> None:
    await publish(ksi, "sea", "calm")
    (said,) = await ksi.facts("message:was_published")
    assert said.data["sender"] == "tester"


# ── queues ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_messages_wait_for_a_taker_that_is_away_over_a_crash(ksi: EventTestHarness) -> None:
    await queue(ksi, "one", "two", "three")
    await ksi.crash()
    assert await take(ksi, 2) == ["one", "two"]
    assert await take(ksi, 2) == ["three"]
    assert await take(ksi) == []


async def test_a_retry_of_a_take_is_given_the_same_and_loses_nothing(ksi: EventTestHarness) -> None:
    await queue(ksi, "one", "two")
    first = await take(ksi, event_id=TAKE)
    await ksi.crash()
    assert await take(ksi, event_id=TAKE) == first == ["one"]
    assert await take(ksi) == ["two"]


async def test_each_message_has_one_taker(ksi: EventTestHarness) -> None:
    words = [f"word{number}" for number in range(40)]
    await queue(ksi, *words)
    taken = await asyncio.gather(*(take(ksi, 3) for _ in range(20)))
    assert sorted(word for some in taken for word in some) == sorted(words)


@pytest.mark.virtual
async def test_what_nobody_takes_in_time_ends(ksi: EventTestHarness) -> None:
    await queue(ksi, "soon", ttl=5)
    await queue(ksi, "late", ttl=500)
    await asyncio.sleep(6)
    assert await take(ksi, 5) == ["late"]
    (expired,) = await ksi.facts("message:has_expired")
    assert expired.data["numbers"] == [1]
    (listed,) = (await ksi.request("message:queues"))["queues"]
    assert (listed["waiting"], listed["last"]) == (0, 2)


@pytest.mark.virtual
@pytest.mark.parametrize("late", [message.PAGE, 2 * message.PAGE + 1])
async def test_however_many_end_the_next_one_is_taken(ksi: EventTestHarness, late: int) -> None:
    await queue(ksi, *map(str, range(late)), ttl=5)
    await queue(ksi, "in time", ttl=500)
    await queue(ksi, *map(str, range(late)), ttl=5)
    await asyncio.sleep(6)
    assert await take(ksi) == ["in time"]
    await queue(ksi, *map(str, range(late)), ttl=5)
    await asyncio.sleep(6)
    assert await take(ksi) == []


@pytest.mark.virtual
async def test_a_full_queue_refuses_until_there_is_room(ksi: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "QUEUED_MAX", 3)
    await queue(ksi, "one", ttl=5)
    await queue(ksi, "two", "three", ttl=500)
    with pytest.raises(OverloadedError) as caught:
        await queue(ksi, "four")
    assert caught.value.limit == 3
    await asyncio.sleep(6)
    await queue(ksi, "four")
    assert await take(ksi, 10) == ["two", "three", "four"]


@pytest.mark.parametrize("asked", [{"queue": "ada"}, {"topic": "sea"}])
async def test_a_message_that_is_too_large_is_refused(ksi: EventTestHarness, asked: dict[str, str]) -> None:
    event = "message:queue" if "queue" in asked else "message:publish"
    with pytest.raises(PayloadTooLargeError) as caught:
        await ksi.request(event, asked | {"data": {"word": "x" * message.MESSAGE_BYTES_MAX}})
    assert caught.value.limit == message.MESSAGE_BYTES_MAX


async def test_an_answer_fits_into_a_frame(ksi: EventTestHarness) -> None:
    await queue(ksi, *("x" * (60 << 10) for _ in range(10)))
    first = await take(ksi, 10)
    assert len(first) == 8
    assert len(await take(ksi, 10)) == 2


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("queue"), st.integers(1, 20)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 10)),
    ),
    max_size=30,
)


@pytest.mark.virtual
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
async def test_a_queue_is_a_list_of_what_is_still_in_time(steps: list[tuple[str, int]]) -> None:
    async with EventTestHarness(Message) as ksi:
        waiting: deque[tuple[str, float]] = deque()
        now = 0.0
        for number, (step, amount) in enumerate(steps):
            if step == "queue":
                await queue(ksi, f"word{number}", ttl=amount + 0.5)
                waiting.append((f"word{number}", now + amount + 0.5))
            elif step == "take":
                expected = [word for word, until in waiting if until > now][:amount]
                assert await take(ksi, amount) == expected
                waiting = deque(each for each in waiting if each[1] > now and each[0] not in expected)
            else:
                await asyncio.sleep(amount)
                now += amount
