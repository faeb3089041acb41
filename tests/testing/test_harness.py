"""The harness: a kernel with plugins in the test's own process, which can be restarted and crashed."""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import msgspec
import pytest

from ksi.core import ids
from ksi.core.errors import (
    DeadlineExceededError,
    KSIConnectionError,
    OutcomeUnknownError,
    UnknownEventError,
    ValidationError,
)
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import ManualClock

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]


@fact("counter:was_raised")
class CounterWasRaised(msgspec.Struct, frozen=True):
    total: int


class Counter(msgspec.Struct, frozen=True):
    id: str
    total: int


class CounterView(View[Counter]):
    name = "counters"
    query = (Filter(names=("counter:was_raised",)),)
    record = Counter
    key = ("id",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        writer.put(Counter(event.stream.partition("/")[2], event.data["total"]))


class CounterPlugin(AsyncPlugin):
    name = "counter"
    views: ClassVar[tuple[type[View[Counter]], ...]] = (CounterView,)

    @event("counter:raise", key=lambda payload: f"counter/{payload.id}")
    async def raise_it(self, id: str, by: int, context: EventContext) -> dict[str, int]:
        known = await context.view(CounterView).get(id)
        total = by + (known.total if known else 0)
        context.append(f"counter/{id}", CounterWasRaised(total))
        return {"total": total}

    @query("counter:wait", timeout=None)
    async def wait(self, seconds: float) -> dict[str, float]:
        await asyncio.sleep(seconds)
        return {"waited": seconds}

    @stream("counter:count")
    async def count(self, to: int) -> AsyncIterator[int | End[str]]:
        for number in range(to):
            yield number
        yield End("done")


class OutsidePlugin(AsyncPlugin):
    """Acts on the world outside: ``acts`` counts it over all lives of the kernel."""

    name = "outside"
    acts: ClassVar[list[str]] = []

    @event("outside:safe", durability="before", on_crash="rerun", timeout=None)
    async def safe(self, context: EventContext) -> list[str]:
        return [await self.act(step, context) for step in ("one", "two")]

    @event("outside:unsafe", durability="before", timeout=None)
    async def unsafe(self, context: EventContext) -> str:
        return await self.act("one", context, idempotent=False)

    async def act(self, step: str, context: EventContext, *, idempotent: bool = True) -> str:
        async def call() -> str:
            self.acts.append(step)
            await asyncio.sleep(10)
            return step

        answer: str = await context.effect("outside:act", {"step": step}, call, result=str, idempotent=idempotent)
        return answer


@pytest.fixture
async def ksi() -> AsyncIterator[EventTestHarness]:
    OutsidePlugin.acts.clear()
    async with EventTestHarness(CounterPlugin, OutsidePlugin) as ksi:
        yield ksi


async def test_a_request_is_answered_and_its_facts_are_in_the_log(ksi: EventTestHarness) -> None:
    assert await ksi.request("counter:raise", {"id": "a", "by": 2}) == {"total": 2}
    assert await ksi.request("counter:raise", {"id": "a", "by": 3}) == {"total": 5}
    assert [raised.data for raised in await ksi.facts("counter:*")] == [{"total": 2}, {"total": 5}]
    assert await ksi.facts("outside:*") == []


async def test_errors_are_raised_as_a_client_would_see_them(ksi: EventTestHarness) -> None:
    with pytest.raises(UnknownEventError) as caught:
        await ksi.request("counter:rais")
    assert "counter:raise" in caught.value.suggestions
    with pytest.raises(ValidationError):
        await ksi.request("counter:raise", {"id": "a", "by": "two"})


async def test_time_is_virtual_and_deadlines_are_kept(ksi: EventTestHarness, virtual_clock: ManualClock) -> None:
    assert await ksi.request("counter:wait", {"seconds": 3600}) == {"waited": 3600}
    assert virtual_clock.monotonic() == pytest.approx(3600, abs=0.1)
    with pytest.raises(DeadlineExceededError):
        await ksi.request("counter:wait", {"seconds": 3600}, timeout=1)
    assert virtual_clock.monotonic() == pytest.approx(3601, abs=0.1)


async def test_a_stream_gives_chunks_with_addresses_then_its_answer(ksi: EventTestHarness) -> None:
    counted = ksi.stream("counter:count", {"to": 40})
    assert [chunk async for chunk in counted] == list(range(40))
    assert counted.answer == "done"
    assert all(at is not None and at.startswith("counter/") for at in counted.addresses)


async def test_a_stream_of_what_is_unknown_ends_with_the_error(ksi: EventTestHarness) -> None:
    with pytest.raises(UnknownEventError):
        [chunk async for chunk in ksi.stream("counter:cuont")]


async def test_a_restart_keeps_the_log_and_the_views(ksi: EventTestHarness) -> None:
    await ksi.request("counter:raise", {"id": "a", "by": 2})
    before = ksi.kernel
    await ksi.restart()
    assert ksi.kernel is not before
    assert await ksi.request("counter:raise", {"id": "a", "by": 3}) == {"total": 5}


async def test_the_same_id_after_a_restart_gives_the_same_answer_without_a_second_run(ksi: EventTestHarness) -> None:
    event_id = ids.text(ids.new_id())
    first = await ksi.request("counter:raise", {"id": "a", "by": 2}, event_id=event_id)
    await ksi.restart()
    assert await ksi.request("counter:raise", {"id": "a", "by": 2}, event_id=event_id) == first
    assert len(await ksi.facts("counter:*")) == 1


async def test_who_waits_at_a_crash_loses_the_connection(ksi: EventTestHarness) -> None:
    waiting = asyncio.create_task(ksi.request("counter:wait", {"seconds": 60}))
    await asyncio.sleep(1)
    await ksi.crash()
    with pytest.raises(KSIConnectionError):
        await waiting


async def test_what_may_run_again_does_after_a_crash_and_repeats_no_completed_effect(ksi: EventTestHarness) -> None:
    event_id = ids.text(ids.new_id())
    waiting = asyncio.create_task(ksi.request("outside:safe", event_id=event_id))
    await asyncio.sleep(15)  # the first effect is recorded, the second under way
    await ksi.crash()
    with pytest.raises(KSIConnectionError):
        await waiting
    assert ksi.recovered.rerun == 1
    assert await ksi.request("outside:safe", event_id=event_id) == ["one", "two"]
    assert OutsidePlugin.acts == ["one", "two", "two"]


async def test_what_had_acted_and_may_not_run_again_is_unknown_after_a_crash(ksi: EventTestHarness) -> None:
    event_id = ids.text(ids.new_id())
    waiting = asyncio.create_task(ksi.request("outside:unsafe", event_id=event_id))
    await asyncio.sleep(5)
    await ksi.crash()
    with pytest.raises(KSIConnectionError):
        await waiting
    assert (ksi.recovered.rerun, ksi.recovered.closed) == (0, 1)
    with pytest.raises(OutcomeUnknownError):
        await ksi.request("outside:unsafe", event_id=event_id)
    assert OutsidePlugin.acts == ["one"]


async def test_nothing_is_recorded_between_the_crash_and_the_next_life(ksi: EventTestHarness) -> None:
    waiting = asyncio.create_task(ksi.request("outside:unsafe"))
    await asyncio.sleep(5)
    before = await ksi.log.head()
    ksi._line.cut()
    waiting.cancel()
    await asyncio.sleep(60)
    assert await ksi.log.head() == before
