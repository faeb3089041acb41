"""What is on disk, when, and what a retry or a crash makes of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import (
    ConflictError,
    DeadlineExceededError,
    InternalError,
    KSIConnectionError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    WrongExpectedVersionError,
)
from ksi.core.events import Filter, NewEvent, Position, RecordedEvent
from ksi.core.ports import Done, Unit
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, observer, query
from ksi.kernel.rerun import RERUNS_MAX
from ksi.store.cursor import Cursor
from ksi.store.memory import InMemoryEventStore
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import new_id, plugin, recorded, story, turns

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]


def happened(name: str = "happened", **data: Any) -> NewEvent:
    return NewEvent(name=f"p:{name}", data=data)


class Gate:
    """A place at which handlers wait until a test lets them go on; ``passed`` counts over all lives of a kernel."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.passed = 0

    async def pass_through(self) -> None:
        self.passed += 1
        self.reached.set()
        await self.opened.wait()

    async def crash(self, ksi: EventTestHarness, request: asyncio.Future[Any]) -> None:
        """Crash ``ksi`` when a handler stands here."""
        await self.reached.wait()
        self.reached.clear()
        await ksi.crash()
        with pytest.raises(KSIConnectionError):
            await request


class FullDisk(InMemoryEventStore):
    """A log that can be told to take nothing."""

    is_full = False

    def write(self, unit: Unit, done: Done) -> None:
        if self.is_full:
            asyncio.get_running_loop().call_soon(done, None, UnavailableError("the log", "the disk is full"))
        else:
            super().write(unit, done)


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_request_facts_emits_and_outcome_are_one_commit_and_emits_start_after_it() -> None:
    @event("p:do")
    async def do(self: Any, context: EventContext) -> int:
        context.append("p/1", happened())
        context.emit("p:later")
        assert await story(self.host.services.get(EventTestHarness)) == []
        return 1

    @event("p:later")
    async def later(self: Any) -> None: ...

    async with EventTestHarness(plugin(do, later)) as ksi:
        ksi.kernel.services.register(EventTestHarness, ksi)
        assert await ksi.request("p:do") == 1
        await turns()
        events = await recorded(ksi)
        assert [f"{event.kind} {event.name}" for event in events] == [
            "request p:do",
            "fact p:happened",
            "request p:later",
            "outcome p:do",
            "outcome p:later",
        ]
        assert len({event.recorded_at for event in events[:4]}) == 1
        assert {event.correlation_id for event in events} == {str(events[0].event_id)}
        assert events[2].causation_id == events[0].event_id


async def test_a_conflict_answers_and_records_nothing_so_a_retry_runs() -> None:
    expected = 3

    @event("p:do")
    async def do(self: Any, context: EventContext) -> None:
        context.append("p/1", happened(), expected_version=expected)

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        with pytest.raises(WrongExpectedVersionError) as caught:
            await ksi.request("p:do", event_id=event_id)
        assert caught.value.actual == 0
        assert await story(ksi) == []
        expected = 0
        await ksi.request("p:do", event_id=event_id)
        assert await story(ksi) == ["request p:do", "fact p:happened", "outcome p:do"]


async def test_the_handlers_own_error_is_recorded_and_given_to_a_retry() -> None:
    runs: list[int] = []

    @event("p:do")
    async def do(self: Any, context: EventContext) -> None:
        runs.append(1)
        context.append("p/1", happened())
        raise NotFoundError("thing", "x")

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        for _ in range(2):
            with pytest.raises(NotFoundError) as caught:
                await ksi.request("p:do", event_id=event_id)
            assert (caught.value.what, caught.value.name) == ("thing", "x")
        assert runs == [1]
        assert await story(ksi) == ["request p:do", "outcome p:do"]


@pytest.mark.parametrize("other", [{"principal": "another"}, {"branch": "aside"}])
async def test_an_id_belongs_to_who_used_it_and_where(other: dict[str, str]) -> None:
    @event("p:do")
    async def do(self: Any) -> int:
        return 1

    event_id = new_id()
    log = InMemoryEventStore()
    async with log:
        async with EventTestHarness(plugin(do), log=log) as ksi:
            await ksi.request("p:do", event_id=event_id)
        await log.fork(Position(1), "aside")
        async with EventTestHarness(plugin(do), log=log, principal=other.get("principal", "tester")) as ksi:
            with pytest.raises(ConflictError):
                await ksi.request("p:do", event_id=event_id, branch=other.get("branch", "main"))


async def test_a_retry_joins_what_runs_is_given_what_ended_and_conflicts_with_other_content() -> None:
    runs: list[int] = []

    @event("p:do")
    async def do(self: Any, number: int) -> int:
        runs.append(number)
        await asyncio.sleep(1)
        return number

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        ask = [ksi.request("p:do", {"number": 1}, event_id=event_id) for _ in range(3)]
        assert list(await asyncio.gather(*ask)) == [1, 1, 1]
        assert await ksi.request("p:do", {"number": 1}, event_id=event_id) == 1
        assert runs == [1]
        running_id = new_id()
        running = asyncio.ensure_future(ksi.request("p:do", {"number": 1}, event_id=running_id))
        await turns()
        for used in (event_id, running_id):
            with pytest.raises(ConflictError):
                await ksi.request("p:do", {"number": 2}, event_id=used)
        await running
        await ksi.restart()
        assert await ksi.request("p:do", {"number": 1}, event_id=event_id) == 1
        assert runs == [1, 1]


async def test_a_full_disk_is_an_answer_and_what_it_refused_counts_as_not_begun() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> int:
        try:
            await context.request("p:inner")
        except UnavailableError:
            log.is_full = False
        context.append("p/1", happened())
        return 1

    @event("p:inner")
    async def inner(self: Any) -> None: ...

    log = FullDisk()
    async with EventTestHarness(plugin(outer, inner), log=log) as ksi:
        log.is_full = True
        with pytest.raises(UnavailableError):
            await ksi.request("p:inner")
        assert await ksi.request("p:outer") == 1
        assert await story(ksi) == ["request p:outer", "fact p:happened", "outcome p:outer"]
    await log.close()


async def test_a_conflict_of_a_request_that_is_on_disk_is_its_outcome() -> None:
    @event("p:outer", durability="before")
    async def outer(self: Any, context: EventContext) -> None:
        context.append("p/1", happened(), expected_version=7)

    async with EventTestHarness(plugin(outer)) as ksi:
        event_id = new_id()
        for _ in range(2):
            with pytest.raises(WrongExpectedVersionError):
                await ksi.request("p:outer", event_id=event_id)
        assert await story(ksi) == ["request p:outer", "outcome p:outer"]
        await ksi.restart()
        assert ksi.recovered.rerun == 0


class Thing(msgspec.Struct, frozen=True):
    id: str


class Brittle(View[Thing]):
    """Can not take the fact ``p:poison``."""

    name = "things"
    query = (Filter(names=("p:*",)),)
    record = Thing
    key = ("id",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        if event.name == "p:poison":
            raise RuntimeError("boom")
        writer.put(Thing(event.stream))


@pytest.mark.parametrize("durability", ["together", "before"])
async def test_a_view_that_can_not_take_a_fact_fails_that_command_alone(durability: Any) -> None:
    @event("p:do", durability=durability)
    async def do(self: Any, name: str, context: EventContext) -> None:
        context.append("p/1", happened(name))

    async with EventTestHarness(plugin(do, views=(Brittle,))) as ksi:
        ends = await asyncio.gather(
            *(ksi.request("p:do", {"name": name}) for name in ("a", "poison", "b")), return_exceptions=True
        )
        assert [type(end) for end in ends] == [dict, InternalError, dict]
        assert [fact.name for fact in await ksi.facts("p:*")] == ["p:a", "p:b"]
        await ksi.crash()
        assert ksi.recovered.rerun == 0


# ── nested ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_nested_command_puts_its_outer_ones_on_disk_in_front_and_sees_nothing_of_their_buffers() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> None:
        context.append("p/outer", happened("outer"))
        await context.request("p:middle")

    @event("p:middle")
    async def middle(self: Any, context: EventContext) -> None:
        context.append("p/middle", happened("middle"))
        await context.request("p:inner")

    @event("p:inner")
    async def inner(self: Any, context: EventContext) -> None:
        assert await story(self.host.services.get(EventTestHarness)) == []
        context.append("p/inner", happened("inner"))

    async with EventTestHarness(plugin(outer, middle, inner)) as ksi:
        ksi.kernel.services.register(EventTestHarness, ksi)
        await ksi.request("p:outer")
        assert await story(ksi) == [
            "request p:outer",
            "request p:middle",
            "request p:inner",
            "fact p:inner",
            "outcome p:inner",
            "fact p:middle",
            "outcome p:middle",
            "fact p:outer",
            "outcome p:outer",
        ]
        paths = [event.metadata.get("path") for event in await recorded(ksi) if event.kind == "request"]
        assert paths == [None, "p:outer/p:middle#1", "p:outer/p:middle#1/p:inner#1"]


async def test_what_nested_commands_did_stays_when_the_outer_one_fails() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> None:
        context.append("p/outer", happened("outer"))
        await context.request("p:inner")
        raise NotFoundError("x", "y")

    @event("p:inner")
    async def inner(self: Any, context: EventContext) -> None:
        context.append("p/inner", happened("inner"))

    async with EventTestHarness(plugin(outer, inner)) as ksi:
        with pytest.raises(NotFoundError):
            await ksi.request("p:outer")
        assert [fact.name for fact in await ksi.facts("p:*")] == ["p:inner"]


async def test_a_nested_query_is_recorded_with_what_it_gave() -> None:
    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> int:
        return int(await context.request("p:ask", number=1)) + 1

    @query("p:ask", inline=True)
    def ask(self: Any, number: int) -> int:
        return number

    async with EventTestHarness(plugin(outer, ask)) as ksi:
        assert await ksi.request("p:outer") == 2
        (read,) = msgspec.json.decode((await recorded(ksi))[-1].metadata["reads"])
        assert (read["query"], read["request"], read["answer"]) == ("p:ask", {"number": 1}, 1)


@settings(max_examples=30, deadline=None)
@given(crashes=st.lists(st.integers(0, 3), min_size=1, max_size=RERUNS_MAX))
async def test_killed_between_its_nested_commands_each_stands_once(crashes: Sequence[int]) -> None:
    gate, plan, step = asyncio.Event(), list(crashes), 0

    @event("p:outer")
    async def outer(self: Any, context: EventContext) -> int:
        nonlocal step
        step = 0
        context.append("p/outer", happened("outer"))
        for number in range(3):
            await pause(number)
            await context.request("p:inner", number=number)
        await pause(3)
        context.emit("p:inner", number=3)
        return 3

    async def pause(number: int) -> None:
        if plan and plan[0] == number:
            plan.pop(0)
            gate.set()
            await asyncio.Event().wait()

    @event("p:inner")
    async def inner(self: Any, number: int, context: EventContext) -> None:
        context.append(f"p/{number}", happened("inner"))

    async with EventTestHarness(plugin(outer, inner)) as ksi:
        event_id, asked = new_id(), len(plan)
        request = asyncio.ensure_future(ksi.request("p:outer", event_id=event_id))
        for _ in range(asked):
            await gate.wait()
            gate.clear()
            await ksi.crash()
            await asyncio.wait([request])
            assert isinstance(request.exception(), KSIConnectionError)
            if ksi.recovered.rerun == 0:  # nothing of it was on disk
                request = asyncio.ensure_future(ksi.request("p:outer", event_id=event_id))
        assert await ksi.request("p:outer", event_id=event_id) == 3
        await asyncio.wait([request])
        await turns(40)
        streams = [fact.stream for fact in await ksi.facts("p:*")]
        assert sorted(streams) == ["p/0", "p/1", "p/2", "p/3", "p/outer"]


# ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_before_puts_the_request_on_disk_before_the_handler_acts() -> None:
    @event("p:do", durability="before")
    async def do(self: Any) -> list[str]:
        return await story(self.host.services.get(EventTestHarness))

    async with EventTestHarness(plugin(do)) as ksi:
        ksi.kernel.services.register(EventTestHarness, ksi)
        assert await ksi.request("p:do") == ["request p:do"]


async def test_recorded_effects_are_served_to_a_rerun_in_whatever_order_they_came() -> None:
    gate, calls, order = Gate(), [], [3, 1, 2]

    @event("p:do", durability="before", on_crash="rerun", timeout=None)
    async def do(self: Any, context: EventContext) -> list[int]:
        async def act(number: int) -> int:
            await asyncio.sleep(order[number])

            async def call() -> int:
                calls.append(number)
                return number * 10

            return int(await context.effect("x:act", {"number": number}, call))

        found = await asyncio.gather(*(act(number) for number in range(3)))
        await gate.pass_through()
        return [*found, await act(2)]

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await gate.crash(ksi, request)
        order.reverse()
        gate.opened.set()
        assert await ksi.request("p:do", event_id=event_id) == [0, 10, 20, 20]
        assert sorted(calls) == [0, 1, 2, 2]


async def test_each_of_several_handlers_is_served_its_own_effects_and_requests_in_a_rerun() -> None:
    gate, calls, waits = Gate(), Counter[str](), {"one": 1, "two": 2}

    def handling(name: str) -> Any:
        @event("p:do", shared=True, answers="all", timeout=None)
        async def do(self: Any, context: EventContext) -> str:
            async def call() -> str:
                calls[name] += 1
                return name

            await asyncio.sleep(waits[name])
            began = context.now().timestamp()
            given = await context.effect("x:act", {}, call)
            kept = await context.request("p:keep", name=name)
            await gate.pass_through()
            return f"{given} {kept} {began:.0f}"

        return plugin(do, name=name)

    @event("p:keep")
    async def keep(self: Any, name: str) -> str:
        calls["kept"] += 1
        return name

    async with EventTestHarness(handling("one"), handling("two"), plugin(keep)) as ksi:
        event_id = new_id()
        began = ksi.clock.time_us() / 1e6
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await asyncio.sleep(5)
        await gate.crash(ksi, request)
        waits |= {"one": 4, "two": 3}
        gate.opened.set()
        assert await ksi.request("p:do", event_id=event_id) == [
            f"{name} {name} {began + number:.0f}" for number, name in enumerate(("one", "two"), 1)
        ]
        assert calls == {"one": 1, "two": 1, "kept": 2}


@pytest.mark.parametrize("is_idempotent", [True, False])
async def test_an_effect_that_began_and_did_not_end_is_unknown_unless_it_is_idempotent(is_idempotent: bool) -> None:
    gate = Gate()

    @event("p:do", durability="before", on_crash="rerun", timeout=None)
    async def do(self: Any, context: EventContext) -> int:
        async def call() -> int:
            await gate.pass_through()
            return 1

        return int(await context.effect("x:act", {}, call, idempotent=is_idempotent))

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await gate.crash(ksi, request)
        gate.opened.set()
        if is_idempotent:
            assert await ksi.request("p:do", event_id=event_id) == 1
            assert gate.passed == 2
        else:
            with pytest.raises(OutcomeUnknownError):
                await ksi.request("p:do", event_id=event_id)
            assert gate.passed == 1


async def test_one_that_had_acted_and_does_not_say_that_this_is_harmless_is_not_run_again() -> None:
    gate = Gate()

    @event("p:do", durability="before", timeout=None)
    async def do(self: Any, context: EventContext, acts: bool) -> int:
        async def call() -> int:
            return 1

        if acts:
            await context.effect("x:act", {}, call)
        await gate.pass_through()
        return 1

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        for acts in (True, False):
            event_id = new_id()
            request = asyncio.ensure_future(ksi.request("p:do", {"acts": acts}, event_id=event_id))
            await gate.crash(ksi, request)
            assert (ksi.recovered.rerun, ksi.recovered.closed) == (int(not acts), int(acts))
            if acts:
                with pytest.raises(OutcomeUnknownError):
                    await ksi.request("p:do", {"acts": acts}, event_id=event_id)
        gate.opened.set()
        assert await ksi.request("p:do", {"acts": False}, event_id=event_id) == 1


async def test_time_and_chance_are_the_same_in_a_rerun() -> None:
    gate, seen, calls = Gate(), [], []

    @event("p:do", durability="before", on_crash="rerun", timeout=None)
    async def do(self: Any, context: EventContext) -> None:
        async def call() -> None:
            calls.append(1)

        now = context.now()
        seen.append((now, context.random.random()))
        await context.effect("x:act", {"at": now.isoformat()}, call)
        await gate.pass_through()

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await asyncio.sleep(1)
        await gate.crash(ksi, request)
        gate.opened.set()
        await ksi.request("p:do", event_id=event_id)
    assert seen[0] == seen[1]
    assert calls == [1]


async def test_a_time_that_a_nested_request_was_made_of_is_the_same_in_a_rerun() -> None:
    gate = Gate()

    @event("p:outer", timeout=None)
    async def outer(self: Any, context: EventContext) -> None:
        await context.request("p:inner", at=context.now().isoformat())
        await gate.pass_through()

    @event("p:inner")
    async def inner(self: Any, at: str, context: EventContext) -> None:
        context.append("p/1", happened())

    async with EventTestHarness(plugin(outer, inner)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:outer", event_id=event_id))
        await asyncio.sleep(1)
        await gate.crash(ksi, request)
        gate.opened.set()
        await ksi.request("p:outer", event_id=event_id)
        assert len(await ksi.facts("p:*")) == 1


async def test_what_was_committed_in_the_middle_is_not_said_twice() -> None:
    gate = Gate()

    @event("p:do", timeout=None)
    async def do(self: Any, context: EventContext) -> int:
        context.append("p/1", happened("one"), expected_version=0)
        context.emit("p:later")
        await context.commit()
        context.append("p/1", happened("two"), expected_version=1)
        await context.commit()
        await gate.pass_through()
        context.append("p/1", happened("three"), expected_version=2)
        return 1

    @event("p:later")
    async def later(self: Any, context: EventContext) -> None:
        context.append("p/later", happened("later"))

    async with EventTestHarness(plugin(do, later)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await gate.crash(ksi, request)
        gate.opened.set()
        assert await ksi.request("p:do", event_id=event_id) == 1
        await turns()
        names = [fact.name for fact in await ksi.facts("p:*")]
        assert sorted(names) == ["p:later", "p:one", "p:three", "p:two"]


async def test_what_several_handlers_have_committed_is_not_mixed_up_when_they_run_in_another_order() -> None:
    gate, waits = Gate(), {"one": 1, "two": 10}

    def handling(name: str) -> Any:
        @event("p:do", shared=True, answers="all", timeout=None)
        async def do(self: Any, context: EventContext) -> str:
            await asyncio.sleep(waits[name])
            context.append(f"p/{name}", happened(name))
            await context.commit()
            await gate.pass_through()
            return name

        return plugin(do, name=name)

    async with EventTestHarness(handling("one"), handling("two")) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id))
        await gate.crash(ksi, request)
        assert [fact.name for fact in await ksi.facts("p:*")] == ["p:one"]
        waits |= {"one": 10, "two": 1}
        gate.opened.set()
        assert await ksi.request("p:do", event_id=event_id) == ["one", "two"]
        assert [fact.name for fact in await ksi.facts("p:*")] == ["p:one", "p:two"]


# ── the start after a crash ──────────────────────────────────────────────────────────────────────────────────────────
async def test_emits_that_were_not_started_run_after_the_crash_once() -> None:
    @event("p:do")
    async def do(self: Any, context: EventContext) -> None:
        context.emit("p:later")

    @event("p:later", key=lambda _: "k")
    async def later(self: Any, context: EventContext) -> None:
        await asyncio.sleep(1)
        context.append("p/1", happened())

    async with EventTestHarness(plugin(do, later)) as ksi:
        await ksi.request("p:do")
        await ksi.crash()
        assert ksi.recovered.rerun == 1
        await asyncio.sleep(2)
        await ksi.crash()
        assert ksi.recovered.rerun == 0
        assert len(await ksi.facts("p:happened")) == 1


async def test_a_daemon_that_stops_leaves_emits_to_the_next_start() -> None:
    @event("p:do", timeout=None)
    async def do(self: Any, context: EventContext) -> None:
        await asyncio.sleep(1)
        context.emit("p:do")
        context.append("p/1", happened())

    async with EventTestHarness(plugin(do)) as ksi:
        asked = asyncio.ensure_future(ksi.request("p:do"))
        await turns()
        await ksi.restart()
        await asked
        assert len(await ksi.facts("p:*")) == 1
        assert ksi.recovered.rerun == 1


async def test_one_that_kills_the_daemon_each_time_is_given_up_after_two_reruns() -> None:
    gate = Gate()

    @event("p:deadly", durability="before", on_crash="rerun", timeout=None)
    async def deadly(self: Any) -> None:
        await gate.pass_through()

    async with EventTestHarness(plugin(deadly)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:deadly", event_id=event_id))
        await gate.crash(ksi, request)
        for _ in range(RERUNS_MAX):
            await gate.reached.wait()
            gate.reached.clear()
            await ksi.crash()
        assert gate.passed == 1 + RERUNS_MAX
        assert (ksi.recovered.rerun, ksi.recovered.closed) == (0, 1)
        with pytest.raises(OutcomeUnknownError):
            await ksi.request("p:deadly", event_id=event_id)


class CountingLog(InMemoryEventStore):
    """Counts the pages that are read of it."""

    pages_read = 0

    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]:
        self.pages_read += 1
        return await super().page(cursor, count)


async def test_a_recovery_looks_at_what_the_open_requests_caused_and_not_at_the_whole_log() -> None:
    gate = Gate()

    @event("p:open", durability="before", timeout=None)
    async def stay_open(self: Any) -> None:
        await gate.pass_through()

    async with CountingLog() as log, EventTestHarness(plugin(stay_open), log=log) as ksi:
        request = asyncio.ensure_future(ksi.request("p:open"))
        await gate.reached.wait()
        for _ in range(2_000):
            await log.append("other/a", [happened()])
        log.pages_read = 0
        await gate.crash(ksi, request)
        assert (ksi.recovered.rerun, log.pages_read) == (1, 1)


async def test_a_deadline_that_passed_while_the_daemon_was_down_is_exceeded() -> None:
    gate = Gate()

    @event("p:do", durability="before", timeout=None)
    async def do(self: Any) -> None:
        await gate.pass_through()

    async with EventTestHarness(plugin(do)) as ksi:
        event_id = new_id()
        request = asyncio.ensure_future(ksi.request("p:do", event_id=event_id, timeout=10))
        await gate.reached.wait()
        ksi.clock.shift_wall(60)  # type: ignore[attr-defined]  # a manual clock here
        await gate.crash(ksi, request)
        assert gate.passed == 1
        with pytest.raises(DeadlineExceededError):
            await ksi.request("p:do", event_id=event_id)


# ── observers ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_an_observer_with_a_checkpoint_misses_nothing_and_its_emits_commit_with_it() -> None:
    seen: list[Mapping[str, Any]] = []
    gate = Gate()
    gate.opened.set()

    @event("p:do")
    async def do(self: Any, number: int, context: EventContext) -> None:
        context.append("p/1", happened(number=number))

    @event("p:note")
    async def note(self: Any, number: int, context: EventContext) -> None:
        context.append("noted/1", NewEvent(name="noted:it", data={"number": number}))

    @observer("p:happened", checkpoint="watcher")
    async def watch(self: Any, event: RecordedEvent, context: EventContext) -> None:
        seen.append(event.data)
        context.emit("p:note", event.data)
        await gate.pass_through()

    async with EventTestHarness(plugin(do, note, watch)) as ksi:
        await ksi.request("p:do", {"number": 1})
        await turns(40)
        gate.opened.clear()
        await ksi.request("p:do", {"number": 2})
        await turns(40)
        await ksi.crash()
        gate.opened.set()
        await turns(60)
        await ksi.restart()
        await turns(60)
        assert [data["number"] for data in seen] == [1, 2, 2]
        assert [fact.data["number"] for fact in await ksi.facts("noted:*")] == [1, 2]


async def test_a_live_observer_that_fails_sees_the_next_fact() -> None:
    seen: list[int] = []

    @event("p:do", inline=True)
    def do(self: Any, number: int, context: EventContext) -> None:
        context.append("p/1", happened(number=number))

    @observer("p:")
    async def watch(self: Any, event: RecordedEvent) -> None:
        seen.append(event.data["number"])
        raise RuntimeError("boom")

    async with EventTestHarness(plugin(do, watch)) as ksi:
        await turns()
        for number in range(3):
            await ksi.request("p:do", {"number": number})
        await turns()
        assert seen == [0, 1, 2]


async def test_a_fact_that_an_observer_fails_at_is_parked_and_shown_again_when_that_is_asked_for() -> None:
    seen: list[int] = []
    mended: list[bool] = []

    @event("p:do", inline=True)
    def do(self: Any, number: int, context: EventContext) -> None:
        context.append("p/1", happened(number=number))

    @observer("p:happened", checkpoint="watcher")
    async def watch(self: Any, event: RecordedEvent, context: EventContext) -> None:
        seen.append(event.data["number"])
        if event.data["number"] == 1 and not mended:
            raise RuntimeError("boom")
        context.append("noted/1", NewEvent(name="noted:it", data=event.data))

    async with EventTestHarness(plugin(do, watch)) as ksi:
        for number in (1, 2):
            await ksi.request("p:do", {"number": number})
        await asyncio.sleep(10)  # of virtual time: five attempts, a second apart
        assert seen == [1, 1, 1, 1, 1, 2]
        (parked,) = await ksi.log.parked("watcher")
        assert parked.reason == "RuntimeError: boom"
        await ksi.restart()
        mended.append(True)
        assert await ksi.log.retry_parked("watcher") == 1
        await asyncio.sleep(1)
        assert seen == [1, 1, 1, 1, 1, 2, 1]
        assert await ksi.log.parked("watcher") == []
        assert [fact.data["number"] for fact in await ksi.facts("noted:*")] == [2, 1]


class SpeechlessError(Exception):
    """One that can not say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("how", ["effect", "observe"])
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (ValueError("\ud800"), r"ValueError: \ud800"),
        (SpeechlessError(), "SpeechlessError: (it has no text)"),
    ],
    ids=["text", "no UTF-8", "no text"],
)
async def test_what_is_raised_in_an_effect_reaches_its_handler_as_a_rerun_gives_it(
    how: str, raised: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ksi.kernel")  # between processes pytest can not say what is no UTF-8
    seen, gate = [], asyncio.Event()

    async def breaks() -> None:
        raise raised

    @event("p:do", durability="before", on_crash="rerun")
    async def do(self: Any, context: EventContext) -> None:
        try:
            await (context.effect if how == "effect" else context.observe)("thing:do", {}, breaks)
        except InternalError as error:
            seen.append((error.message, str(error.details())))
        await context.commit()
        await gate.wait()

    async with EventTestHarness(plugin(do)) as ksi:
        request = asyncio.ensure_future(ksi.request("p:do"))
        await turns()
        await ksi.crash()
        await turns()
        gate.set()
        await asyncio.gather(request, return_exceptions=True)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert said in seen[0][0]


async def test_a_handler_whose_error_has_no_text_is_answered() -> None:
    @event("p:do", durability="before")
    async def do(self: Any) -> None:
        raise SpeechlessError

    async with EventTestHarness(plugin(do)) as ksi:
        with pytest.raises(InternalError, match="it has no text"):
            await ksi.request("p:do")
