"""``context.transaction()``: all of a block in one commit, or nothing and a typed error that says what conflicted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ksi.core.errors import (
    AppendConditionError,
    CheckpointConflictError,
    ContextClosedError,
    DeclarationError,
    KSIConnectionError,
    QueryWroteError,
    UnknownEventError,
    WrongExpectedVersionError,
)
from ksi.core.events import AppendCondition, Filter, NewEvent, Position, RecordedEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, observer, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import plugin, story

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]


def moved(amount: int) -> NewEvent:
    return NewEvent(name="bank:moved", data={"amount": amount})


class Bank(AsyncPlugin):
    """Moves money between two accounts, each a stream of its own."""

    name = "bank"

    @event("bank:transfer")
    async def transfer(self, amount: int, seen: int, context: EventContext) -> dict[str, Any]:
        async with context.transaction() as both:
            both.append("account/a", moved(-amount), expected_version=seen)
            both.append("account/b", moved(amount))
            both.emit("bank:notify", amount=amount)
        assert both.committed is not None
        return {"versions": both.committed.versions}

    @event("bank:notify")
    async def notify(self, amount: int, context: EventContext) -> None:
        context.append("mail/1", NewEvent(name="bank:notified", data={"amount": amount}))

    @event("bank:patient_transfer")
    async def patient(self, amount: int, context: EventContext) -> int:
        """Tries with what it knows, and again with what the conflict says."""
        version = 0
        for attempt in range(1, 4):
            try:
                async with context.transaction() as both:
                    both.append("account/a", moved(-amount), expected_version=version)
                    both.append("account/b", moved(amount))
                return attempt
            except WrongExpectedVersionError as conflict:
                version = conflict.actual
        raise AssertionError("three times")


async def names(ksi: EventTestHarness) -> list[str]:
    return [f"{fact.stream} {fact.name}" for fact in await ksi.facts()]


async def test_facts_of_several_streams_and_emits_are_there_together() -> None:
    async with EventTestHarness(Bank) as ksi:
        assert await ksi.request("bank:transfer", {"amount": 5, "seen": 0}) == {"versions": [1, 1]}
        async with asyncio.timeout(1), ksi.log.subscribe([Filter(names=("bank:notified",))], after="start") as mails:
            assert (await anext(aiter(mails))).data == {"amount": 5}
        # The request goes in front in that commit: from there on it counts as begun.
        assert (await story(ksi))[:4] == [
            "request bank:transfer", "fact bank:moved", "fact bank:moved", "request bank:notify",
        ]  # fmt: skip


async def test_a_conflict_says_which_stream_and_leaves_nothing_behind() -> None:
    async with EventTestHarness(Bank) as ksi:
        await ksi.request("bank:transfer", {"amount": 5, "seen": 0})
        before = await story(ksi)
        with pytest.raises(WrongExpectedVersionError) as caught:
            await ksi.request("bank:transfer", {"amount": 7, "seen": 0})
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("account/a", 0, 1)
        assert [line for line in await story(ksi) if "transfer" in line] == [
            line for line in before if "transfer" in line
        ]


async def test_a_handler_may_catch_the_conflict_and_decide_again() -> None:
    async with EventTestHarness(Bank) as ksi:
        await ksi.request("bank:transfer", {"amount": 5, "seen": 0})
        assert await ksi.request("bank:patient_transfer", {"amount": 1}) == 2
        assert [fact.data["amount"] for fact in await ksi.facts("bank:moved")] == [-5, 5, -1, 1]


async def test_a_condition_and_a_checkpoint_say_what_conflicted() -> None:
    taken = AppendCondition([Filter(tags=frozenset({"name:ada"}))])

    @event("p:take")
    async def take(self: Any, position: int, context: EventContext) -> None:
        async with context.transaction(condition=taken, checkpoint=("names", Position(position))) as one:
            one.append("user/1", NewEvent(name="p:named", data={}), tags=frozenset({f"seen:{position}"}))

    async with EventTestHarness(plugin(take)) as ksi:
        await ksi.log.append("user/0", [NewEvent(name="p:seen", data={})] * 3)
        await ksi.request("p:take", {"position": 2})
        assert await ksi.log.checkpoint("names") == 2
        with pytest.raises(CheckpointConflictError) as behind:
            await ksi.request("p:take", {"position": 1})
        assert (behind.value.wanted, behind.value.actual) == (1, 2)
        there = await ksi.log.append("user/2", [NewEvent(name="p:named", data={}, tags=frozenset({"name:ada"}))])
        with pytest.raises(AppendConditionError) as caught:
            await ksi.request("p:take", {"position": 3})
        assert caught.value.conflicting == there.positions[0]
        assert await ksi.log.checkpoint("names") == 2


async def test_a_block_that_raises_commits_nothing() -> None:
    @event("p:fail")
    async def fail(self: Any, context: EventContext) -> None:
        async with context.transaction() as one:
            one.append("a/1", moved(1))
            raise UnknownEventError("p:nothing", suggestions=[])

    async with EventTestHarness(plugin(fail)) as ksi:
        with pytest.raises(UnknownEventError):
            await ksi.request("p:fail")
        assert await ksi.facts() == []


async def test_an_empty_block_commits_nothing() -> None:
    @event("p:nothing")
    async def nothing(self: Any, context: EventContext) -> bool:
        async with context.transaction() as one:
            pass
        return one.committed is None

    async with EventTestHarness(plugin(nothing)) as ksi:
        assert await ksi.request("p:nothing") is True
        assert await story(ksi) == ["request p:nothing", "outcome p:nothing"]


async def test_what_it_may_not_do_is_said_at_once() -> None:
    seen: list[type[BaseException]] = []

    @event("p:wrong")
    async def wrong(self: Any, context: EventContext) -> None:
        async with context.transaction() as one:
            try:
                one.append("$requests", moved(1))
            except DeclarationError as error:
                seen.append(type(error))
            try:
                one.emit("p:unknown")
            except UnknownEventError as error:
                seen.append(type(error))
        try:
            one.append("a/1", moved(1))
        except ContextClosedError as error:
            seen.append(type(error))

    @query("p:ask")
    async def ask(self: Any, context: EventContext) -> None:
        context.transaction()

    async with EventTestHarness(plugin(wrong, ask)) as ksi:
        await ksi.request("p:wrong")
        assert seen == [DeclarationError, UnknownEventError, ContextClosedError]
        with pytest.raises(QueryWroteError):
            await ksi.request("p:ask")


async def test_after_a_crash_a_block_that_is_on_disk_is_not_committed_again() -> None:
    reached, lives = asyncio.Event(), []

    @event("p:slow")
    async def slow(self: Any, context: EventContext) -> int:
        lives.append(1)
        forbidden = AppendCondition([Filter(streams=("a/1",))])
        async with context.transaction(condition=forbidden, checkpoint=("s", Position(1))) as one:
            one.append("a/1", moved(1), expected_version=0)
            one.append("b/1", moved(2))
        reached.set()
        if len(lives) == 1:
            await asyncio.Event().wait()
        context.append("a/1", moved(3))
        return len(lives)

    async with EventTestHarness(plugin(slow)) as ksi:
        await ksi.log.append("x/1", [moved(0)])
        asked = asyncio.ensure_future(ksi.request("p:slow"))
        await reached.wait()
        await ksi.crash()
        with pytest.raises(KSIConnectionError):
            await asked
        async with asyncio.timeout(1), ksi.log.subscribe([Filter(kinds=("outcome",))], after="start") as ends:
            assert (await anext(aiter(ends))).data == {"ok": True, "data": 2}
        assert [fact.data["amount"] for fact in await ksi.facts("bank:moved")] == [0, 1, 2, 3]


async def test_an_observer_commits_its_place_with_what_it_says() -> None:
    @event("p:say")
    async def say(self: Any, context: EventContext) -> None:
        context.append("a/1", NewEvent(name="p:said", data={}))

    @observer("p:said", checkpoint="echo")
    async def echo(self: Any, said: RecordedEvent, context: EventContext) -> None:
        async with context.transaction() as one:
            one.append("b/1", NewEvent(name="p:echoed", data={}))

    async with EventTestHarness(plugin(say, echo)) as ksi:
        await ksi.request("p:say")
        async with asyncio.timeout(1), ksi.log.subscribe([Filter(names=("p:echoed",))], after="start") as echoes:
            heard = await anext(aiter(echoes))
        (said,) = await ksi.facts("p:said")
        assert heard.causation_id == said.event_id
