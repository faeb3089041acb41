"""Schedules: each due time once, whatever happens between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.clock import microseconds, utc
from ksi.core.errors import ConflictError, NotFoundError, UnknownEventError, ValidationError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.schedule import Schedule, Scheduler, due_times
from ksi.plugins.state import State
from ksi.testing.harness import EventTestHarness


class Ticks(AsyncPlugin):
    name = "ticks"

    @event("tick:tick")
    async def tick(self, context: EventContext, note: str = "") -> None:
        await context.request("state:set", key=f"tick-{context.event_id}", value=note)


async def ticks(ksi: EventTestHarness) -> int:
    return len(await ksi.facts("state:value_was_set"))


async def fired(ksi: EventTestHarness) -> list[int]:
    return [fact.data["due"] for fact in await ksi.facts("schedule:was_fired")]


@pytest.fixture
async def ksi() -> AsyncIterator[EventTestHarness]:
    async with EventTestHarness(State, Ticks, Scheduler) as ksi:
        yield ksi


async def every_second(ksi: EventTestHarness, seconds: int, restarts: int) -> None:
    """Each due time once, over ``restarts`` at odd moments."""
    await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 1, "missed": "all"})
    for _ in range(restarts):
        await asyncio.sleep(seconds / restarts + 0.3)
        await ksi.restart()
    await asyncio.sleep(2)
    times = await fired(ksi)
    assert len(times) >= seconds
    assert [later - sooner for sooner, later in pairwise(times)] == [1_000_000] * (len(times) - 1)
    assert await ticks(ksi) == len(times)


@pytest.mark.virtual
async def test_each_second_of_two_minutes_is_fired_once_over_restarts(ksi: EventTestHarness) -> None:
    await every_second(ksi, 120, restarts=20)


@pytest.mark.soak
@pytest.mark.virtual(horizon=200_000)
async def test_each_second_of_a_day_is_fired_once_over_restarts(ksi: EventTestHarness) -> None:
    await every_second(ksi, 86_400, restarts=20)


@pytest.mark.virtual
async def test_a_crash_between_two_times_costs_none(ksi: EventTestHarness) -> None:
    await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 1, "missed": "all"})
    for _ in range(10):
        await asyncio.sleep(1.01)
        await ksi.crash()
    await asyncio.sleep(3)
    times = await fired(ksi)
    assert times == list(range(times[0], times[-1] + 1, 1_000_000))


@pytest.mark.virtual
async def test_once_is_once(ksi: EventTestHarness) -> None:
    at = utc(ksi.clock.time_us() + 5_000_000).isoformat()
    await ksi.request("schedule:add", {"name": "once", "event": "tick:tick", "at": at})
    await asyncio.sleep(60)
    await ksi.restart()
    await asyncio.sleep(60)
    assert await ticks(ksi) == 1
    assert (await ksi.facts("state:value_was_set"))[0].metadata["principal"] == "tester", "it runs as who added it"
    (shown,) = (await ksi.request("schedule:list"))["schedules"]
    assert shown["next"] is None


@pytest.mark.virtual
async def test_what_is_fired_is_for_the_subject_that_it_was_added_for(ksi: EventTestHarness) -> None:
    due = {"name": "tick", "event": "tick:tick", "data": {"note": "1 Harbour Road"}, "every": 5}
    await ksi.request("schedule:add", due, subject="person/1")
    await asyncio.sleep(6)
    (noted,) = await ksi.facts("state:value_was_set")
    assert (noted.data["value"], noted.subject) == ("1 Harbour Road", "person/1")


@pytest.mark.virtual
async def test_a_cron_line_is_read_in_utc(ksi: EventTestHarness) -> None:
    await ksi.request("schedule:add", {"name": "hourly", "event": "tick:tick", "cron": "0 * * * *"})
    await asyncio.sleep(3 * 3600 + 60)
    assert [utc(due).minute for due in await fired(ksi)] == [0, 0, 0]


@pytest.mark.virtual
async def test_what_is_removed_is_fired_no_more(ksi: EventTestHarness) -> None:
    await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 1})
    await asyncio.sleep(2.5)
    await ksi.request("schedule:remove", {"name": "tick"})
    before = await ticks(ksi)
    await asyncio.sleep(10)
    assert await ticks(ksi) == before
    with pytest.raises(NotFoundError):
        await ksi.request("schedule:remove", {"name": "tick"})


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"every": 1, "cron": "* * * * *"}, ValidationError),
        ({}, ValidationError),
        ({"cron": "every day"}, ValidationError),
        ({"every": 0}, ValidationError),
        ({"every": 1e12}, ValidationError),
        ({"at": "9999-12-31T23:59:59-14:00"}, ValidationError),
        ({"at": "0001-01-01T00:00:00+14:00"}, ValidationError),
        ({"every": 1, "event": "no:such"}, UnknownEventError),
    ],
)
async def test_a_schedule_that_can_not_be_is_refused(
    ksi: EventTestHarness, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick"} | wrong)
    await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 1})
    with pytest.raises(ConflictError):
        await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 1})


async def test_a_time_that_no_calendar_has_is_not_recorded(ksi: EventTestHarness) -> None:
    await ksi.request("schedule:add", {"name": "tick", "event": "tick:tick", "every": 60})
    with pytest.raises(ValidationError):
        await ksi.request("schedule:fire", {"name": "tick", "due": 10**18})
    assert len((await ksi.request("schedule:list"))["schedules"]) == 1


@pytest.mark.virtual
async def test_those_behind_a_page_are_fired_too(ksi: EventTestHarness) -> None:
    for number in range(101):
        await ksi.request("schedule:add", {"name": f"tick-{number:03}", "event": "tick:tick", "every": 5})
    await asyncio.sleep(6)
    assert await ticks(ksi) == 101
    assert len((await ksi.request("schedule:list"))["schedules"]) == 101


@given(start=st.integers(0, 10**9), every=st.integers(1, 10**12), paused=st.integers(0, 10**14))
def test_what_was_missed_is_made_up_for_as_it_was_wanted(start: int, every: int, paused: int) -> None:
    def due(missed: Any) -> list[int]:
        schedule = Schedule(
            name="a", id="", event="e:v", data={}, principal="p", start=start, at=None, every=every, cron=None,
            missed=missed,
        )  # fmt: skip
        return due_times(schedule, start + paused)

    every_time = due("all")
    assert len(every_time) == min(paused // every, 1_000)
    assert due("latest") == every_time[-1:]
    assert set(due("none")) <= set(every_time)


@given(start=st.integers(0, 10**15), hours=st.integers(0, 6_000))
@settings(deadline=None, max_examples=20)
def test_cron_times_that_were_missed_are_those_of_a_walk(start: int, hours: int) -> None:
    schedule = Schedule(
        name="a", id="", event="e:v", data={}, principal="p", start=start, at=None, every=None, cron="17 */5 * * *",
        missed="all",
    )  # fmt: skip
    now = start + hours * 3_600_000_000
    walked: list[int] = []
    due = schedule.due_after(start)
    while due is not None and due <= now and len(walked) < 3_000:
        walked.append(due)
        due = schedule.due_after(due)
    assert due_times(schedule, now) == walked[-1_000:]


def test_a_cron_schedule_knows_its_next_time() -> None:
    schedule = Schedule(
        name="a", id="", event="e:v", data={}, principal="p", start=0, at=None, every=None, cron="30 6 * * 1",
        missed="all",
    )  # fmt: skip
    monday = microseconds(datetime(2026, 1, 5, 6, 30, tzinfo=UTC))
    assert schedule.due_after(microseconds(datetime(2026, 1, 1, tzinfo=UTC))) == monday
