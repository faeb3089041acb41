"""Several who wait for one request: each with its own deadline, each free to leave; it goes on while one is left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core import ids
from ksi.core.errors import CancelledError, DeadlineExceededError, EventTimeoutError, StreamStalledError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, stream
from ksi.kernel.router import Limits
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import run
from tests.kernel.running import plugin, recorded, turns
from tests.kernel.test_execution import Answers
from tests.kernel.test_streams import Reader

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
NO_GRACE = Limits(disconnect_grace=0.0)
said = 0


@stream("p:slow")
async def slow_stream(self: Any) -> AsyncIterator[int | End[str]]:
    global said
    said = 0
    try:
        for number in range(5):
            said += 1
            yield number
            await asyncio.sleep(1)
    except asyncio.CancelledError:
        yield End(f"cut after {said}")
        return
    yield End("done")


@event("p:work", timeout=10)
async def work(self: Any, seconds: float = 3.0) -> str:
    await asyncio.sleep(seconds)
    return "done"


def deadline(ksi: EventTestHarness, seconds: float) -> int:
    return ksi.clock.time_us() + round(seconds * 1e6)


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_stream_goes_on_for_those_who_joined_when_its_opener_is_gone() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, joiner = (Reader(ksi, 10, "p:slow", id=event_id) for _ in range(2))
        await turns()
        opener.call.disconnected()
        await joiner.ended.wait()
        assert (joiner.chunks, joiner.ends) == ([b"0", b"1", b"2", b"3", b"4"], [(b'"done"', None)])
        assert opener.ends == []


async def test_an_opener_that_cancels_leaves_the_stream_to_those_who_joined_or_requested_it() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        answers = Answers(ksi)
        opener = Reader(ksi, 10, "p:slow", id=event_id)
        joiner = Reader(ksi, 10, "p:slow", id=event_id)
        answers.ask("p:slow", id=event_id)
        await turns()
        opener.call.cancel()
        assert opener.code == "cancelled"
        await joiner.ended.wait()
        assert (len(joiner.chunks), joiner.code) == (5, "ok")
        assert answers.got == [(None, b'"done"', None)]


@pytest.mark.parametrize("leave", [lambda call: call.cancel(), lambda call: call.disconnected()])
async def test_the_last_who_leaves_ends_the_stream(leave: Callable[[Any], None]) -> None:
    async with EventTestHarness(plugin(slow_stream), limits=NO_GRACE) as ksi:
        event_id = ids.new_id()
        opener, one, other = (Reader(ksi, 10, "p:slow", id=event_id) for _ in range(3))
        await turns()
        opener.call.disconnected()
        leave(one.call)
        await asyncio.sleep(1.5)
        assert (said, len(other.chunks)) == (2, 2)
        leave(other.call)
        await asyncio.sleep(10)
        assert said == 2
        (outcome,) = [event for event in await recorded(ksi) if event.kind == "outcome"]
        assert outcome.data["error"]["details"]["partial"] == "cut after 2"


async def test_the_last_who_cancels_is_told_what_there_was() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, joiner = (Reader(ksi, 10, "p:slow", id=event_id) for _ in range(2))
        await turns()
        opener.call.disconnected()
        joiner.call.cancel()
        await joiner.ended.wait()
        ((_, error),) = joiner.ends
        assert isinstance(error, CancelledError)
        assert error.partial == "cut after 1"


async def test_without_its_opener_a_stream_keeps_the_pace_of_its_fastest_reader_and_stalls_with_it() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, slow, fast = (Reader(ksi, credit, "p:slow", id=event_id) for credit in (10, 1, 2))
        await turns()
        opener.call.disconnected()
        await asyncio.sleep(10)
        assert said == 2
        fast.call.grant(1)
        await asyncio.sleep(10)
        assert (said, len(fast.chunks), len(slow.chunks)) == (3, 3, 1)
        await asyncio.sleep(100)
        assert said == 3
        for reader in (slow, fast):
            ((_, error),) = reader.ends
            assert isinstance(error, StreamStalledError)


async def test_an_opener_that_stalls_leaves_the_stream_to_a_reader_that_does_not() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, joiner = (Reader(ksi, credit, "p:slow", id=event_id) for credit in (1, 10))
        await joiner.ended.wait()
        assert opener.code == "stream_stalled"
        assert (len(joiner.chunks), joiner.code) == (5, "ok")


async def test_when_all_stall_the_opener_goes_first_and_the_stream_ends_with_the_last() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, joiner = (Reader(ksi, 1, "p:slow", id=event_id) for _ in range(2))
        await opener.ended.wait()
        assert (opener.code, joiner.ends) == ("stream_stalled", [])
        await joiner.ended.wait()
        assert joiner.code == "stream_stalled"
        await asyncio.sleep(1)
        assert not ksi.kernel.router.under_way


async def test_one_who_is_behind_when_the_stream_has_ended_can_still_leave() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        opener, joiner = (Reader(ksi, credit, "p:slow", id=event_id) for credit in (10, 1))
        await opener.ended.wait()
        assert joiner.ends == []
        joiner.call.cancel()
        assert (joiner.code, joiner.chunks) == ("cancelled", [b"0"])


async def test_who_joins_before_the_stream_is_on_disk_reads_it_all() -> None:
    @stream("p:one", concurrent=1)
    async def one(self: Any, name: str) -> AsyncIterator[str | End[None]]:
        await asyncio.sleep(1)
        yield name
        yield End(None)

    async with EventTestHarness(plugin(one)) as ksi:
        event_id = ids.new_id()
        Reader(ksi, 9, "p:one", b'{"name":"first"}')
        opener, joiner = (Reader(ksi, 9, "p:one", b'{"name":"second"}', id=event_id) for _ in range(2))
        await joiner.ended.wait()
        assert (opener.chunks, joiner.chunks, joiner.code) == ([b'"second"'], [b'"second"'], "ok")


async def test_each_reader_of_a_stream_has_a_deadline_of_its_own() -> None:
    async with EventTestHarness(plugin(slow_stream)) as ksi:
        event_id = ids.new_id()
        readers = [
            Reader(ksi, 10, "p:slow", id=event_id, deadline_us=deadline(ksi, seconds)) for seconds in (1.5, 2.5, 100)
        ]
        await readers[2].ended.wait()
        assert [reader.code for reader in readers] == ["deadline_exceeded", "deadline_exceeded", "ok"]
        assert [len(reader.chunks) for reader in readers] == [2, 3, 5]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("seconds", "codes"),
    [
        ((1, 2, None), ["deadline_exceeded", "deadline_exceeded", "ok"]),
        ((2, 1, 5), ["deadline_exceeded", "deadline_exceeded", "ok"]),
        ((None, 1, 2), ["deadline_exceeded", "deadline_exceeded", "ok"]),
        ((1, 2, 1), ["deadline_exceeded"] * 3),
    ],
)
async def test_the_deadline_of_one_is_not_that_of_the_others(seconds: Any, codes: list[str]) -> None:
    async with EventTestHarness(plugin(work)) as ksi:
        answers, event_id = Answers(ksi), ids.new_id()
        for each in seconds:
            answers.ask("p:work", id=event_id, deadline_us=None if each is None else deadline(ksi, each))
        await asyncio.sleep(20)
        assert answers.codes == codes


async def test_who_is_left_with_a_deadline_is_told_when_it_passes_and_nothing_runs_on() -> None:
    async with EventTestHarness(plugin(work)) as ksi:
        answers, event_id = Answers(ksi), ids.new_id()
        first = answers.ask("p:work", b'{"seconds":5}', id=event_id, deadline_us=deadline(ksi, 9))
        answers.ask("p:work", b'{"seconds":5}', id=event_id, deadline_us=deadline(ksi, 1))
        assert first is not None
        first.cancel()
        await asyncio.sleep(1.5)
        assert answers.codes == ["cancelled", "deadline_exceeded"]
        assert not ksi.kernel.router.under_way


async def test_the_events_own_limit_holds_for_all_who_wait() -> None:
    async with EventTestHarness(plugin(work)) as ksi:
        answers, event_id = Answers(ksi), ids.new_id()
        for each in (1, 100):
            answers.ask("p:work", b'{"seconds":50}', id=event_id, deadline_us=deadline(ksi, each))
        await asyncio.sleep(10.1)
        assert [type(error) for _, _, error in answers.got] == [DeadlineExceededError, EventTimeoutError]


async def test_what_is_requested_for_several_takes_as_long_as_the_most_patient_waits() -> None:
    @event("p:outer", timeout=None)
    async def outer(self: Any, context: EventContext) -> str:
        return str(await context.request("p:work"))

    async with EventTestHarness(plugin(outer, work)) as ksi:
        answers, event_id = Answers(ksi), ids.new_id()
        answers.ask("p:outer", id=event_id, deadline_us=deadline(ksi, 1))
        await turns()
        answers.ask("p:outer", id=event_id)
        await asyncio.sleep(20)
        assert answers.codes == ["deadline_exceeded", "ok"]


async def test_one_who_leaves_twice_leaves_nobody_else() -> None:
    async with EventTestHarness(plugin(work)) as ksi:
        answers, event_id = Answers(ksi), ids.new_id()
        calls = [answers.ask("p:work", id=event_id) for _ in range(3)]
        for call in (calls[0], calls[0], calls[1], calls[1]):
            assert call is not None
            call.cancel()
        await asyncio.sleep(5)
        assert answers.codes == ["cancelled", "cancelled", "ok"]


# ── any number of readers, whatever they do ──────────────────────────────────────────────────────────────────────────
class Guest(NamedTuple):
    """One who opens the stream in second ``comes``, and leaves ``stays`` seconds later, if ever."""

    comes: int
    stays: int | None
    politely: bool

    @property
    def arrival(self) -> float:
        return self.comes + 0.25

    @property
    def departure(self) -> float:
        return math.inf if self.stays is None else self.comes + self.stays + 0.75


guests = st.builds(Guest, comes=st.integers(0, 4), stays=st.none() | st.integers(0, 5), politely=st.booleans())


@settings(max_examples=100, deadline=None)
@given(opener=guests, others=st.lists(guests, min_size=1, max_size=5), seed=st.integers(0, 1_000))
def test_a_stream_lives_as_long_as_somebody_reads_it_and_each_sees_it_from_its_beginning(
    opener: Guest, others: list[Guest], seed: int
) -> None:
    everybody = [opener._replace(comes=0), *others]
    end = _end_of_stream(everybody)
    readers, outcome = run(_visited(everybody), seed=seed)
    chunks = [b"%d" % number for number in range(5) if number + 0.25 < end]
    assert outcome == ("ok" if end == NATURAL_END else "cancelled")
    for guest, reader in zip(everybody, readers, strict=True):
        assert reader.chunks == chunks[: len(reader.chunks)]
        assert len(reader.ends) <= 1
        if guest.departure > NATURAL_END:
            assert (reader.chunks, reader.code) == (chunks, outcome)
        elif guest.politely:
            assert reader.code in (("cancelled",) if guest.departure <= end else ("cancelled", outcome))


NATURAL_END = 5.25
"""Seconds at which the stream has said everything; it begins with the arrival of its opener."""


def _end_of_stream(everybody: list[Guest]) -> float:
    """When nobody reads it any more, or when it is whole."""
    end = everybody[0].departure
    for guest in sorted(everybody, key=lambda guest: guest.arrival):
        if guest.arrival < end:
            end = max(end, guest.departure)
    return min(end, NATURAL_END)


async def _visited(everybody: list[Guest]) -> tuple[list[Reader], str]:
    event_id, readers = ids.new_id(), []

    async def visit(guest: Guest) -> Reader:
        await asyncio.sleep(guest.arrival)
        reader = Reader(ksi, 100, "p:slow", id=event_id)
        if guest.departure < math.inf:
            await asyncio.sleep(guest.departure - guest.arrival)
            reader.call.cancel() if guest.politely else reader.call.disconnected()
        await asyncio.sleep(20)
        return reader

    async with EventTestHarness(plugin(slow_stream), limits=NO_GRACE) as ksi:
        readers = await asyncio.gather(*map(visit, everybody))
        (outcome,) = [event for event in await recorded(ksi) if event.kind == "outcome"]
        assert not ksi.kernel.router.under_way
        assert not ksi.kernel.router.readers
        return readers, "ok" if outcome.data["ok"] else outcome.data["error"]["code"]
