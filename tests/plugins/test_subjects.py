"""A subject stays with the conversation that it was said in: what follows there is erased with the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.core.errors import ConflictError
from ksi.core.events import Filter, Position, RecordedEvent
from ksi.core.ports import Journal
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.state import State
from ksi.plugins.timetravel import TimeTravel
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import Gate, harness, script, until_queued
from tests.store.images import holding

ALICE, BOB = "person/alice", "person/bob"
SECRET = "lighthouse"


@pytest.fixture
async def log() -> AsyncIterator[Journal]:
    async with InMemoryEventStore() as store:
        yield store


async def say(ksi: EventTestHarness, prompt: str, conversation: str = "c1", subject: str | None = None) -> str:
    asked = {"prompt": prompt, "conversation": conversation}
    return str((await ksi.request("completion:create", asked, subject=subject))["text"])


async def spoken_for(log: Journal, subject: str | None) -> list[RecordedEvent]:
    every = (Filter(kinds=("fact", "request", "outcome", "chunk")),)
    return [each async for each in log.read_all(every) if each.subject == subject]


async def clear(log: Journal) -> list[RecordedEvent]:
    """What is recorded for nobody."""
    return await spoken_for(log, None)


async def test_what_was_said_and_sent_in_a_conversation_is_in_no_file_once_it_is_erased(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as log, harness(script(), log=log) as ksi:
        await say(ksi, SECRET, subject=ALICE)
        assert await say(ksi, "Really?") == "You said: Really?"
        await log.views_written()
        await log.erase_subject(ALICE)
        assert holding(tmp_path, SECRET) == []


async def test_later_turns_of_a_conversation_are_recorded_for_its_subject(log: Journal) -> None:
    async with harness(script(), log=log) as ksi:
        await say(ksi, "first", subject=ALICE)
        await ksi.restart()
        await say(ksi, "second")
        await ksi.request("conversation:fork", {"conversation": "c1", "into": "c2"})
        await say(ksi, "third", "c2")
        assert await clear(log) == []
        await say(ksi, "mine", "c3")
    assert {each.name for each in await clear(log)} >= {"completion:create", "conversation:message_added"}


async def test_its_subject_stays_also_when_what_it_said_was_erased(log: Journal) -> None:
    async with harness(script(), log=log) as ksi:
        await say(ksi, "first", subject=ALICE)
        await log.erase_subject(ALICE)
        await say(ksi, "second")
        assert await clear(log) == []


async def test_the_turns_of_an_agent_are_its_subjects(log: Journal) -> None:
    async with harness(script(), more=(Agent,), log=log) as ksi:
        await ksi.request("agent:spawn", {"agent": "fox"}, subject=ALICE)
        for text in ("first", "second"):
            await ksi.request("agent:send_message", {"agent": "fox", "text": text})
        await ksi.request("agent:terminate", {"agent": "fox"})
        assert await clear(log) == []
        await ksi.request("agent:spawn", {"agent": "fox"})
        await ksi.request("agent:send_message", {"agent": "fox", "text": "another one"})
    assert "agent:answered" in {each.name for each in await clear(log)}


async def test_a_turn_that_comes_while_the_first_is_under_way_is_its_subjects_too(log: Journal) -> None:
    gate = Gate(passing=1)
    async with harness(script(gate=gate), log=log) as ksi:
        first = asyncio.create_task(say(ksi, "first", subject=ALICE))
        second = asyncio.create_task(say(ksi, "second"))
        await until_queued(ksi, 1)
        gate.open()
        await asyncio.gather(first, second)
        assert await clear(log) == []


async def test_a_conversation_of_one_subject_takes_no_turn_for_another(log: Journal) -> None:
    async with harness(script(), log=log) as ksi:
        await say(ksi, "first", subject=ALICE)
        with pytest.raises(ConflictError) as caught:
            await say(ksi, "second", subject=BOB)
        assert (caught.value.details()["subject"], "second" in str(await ksi.facts())) == (ALICE, False)


async def test_who_asks_in_its_conversation_keeps_the_answer_for_its_subject(log: Journal) -> None:
    class Asker(AsyncPlugin):
        name = "asker"

        @event("asker:ask", durability="before")
        async def ask(self, context: EventContext) -> dict[str, str]:
            answered = await context.request("completion:create", prompt="second", conversation="c1")
            return {"text": answered["text"]}

        @event("asker:read")
        async def read(self, context: EventContext) -> dict[str, object]:
            return dict(await context.request("conversation:get", conversation="c1"))

    async with harness(script(), more=(Asker,), log=log) as ksi:
        await say(ksi, SECRET, subject=ALICE)
        assert await ksi.request("asker:ask") == {"text": "You said: second"}
        await ksi.request("asker:read")
        with pytest.raises(ConflictError):
            await ksi.request("asker:read", subject=BOB)
        await ksi.request("conversation:get", {"conversation": "c1"}, subject=BOB)
    assert [(each.name, each.kind) for each in await clear(log)] == [("asker:ask", "request")]
    assert SECRET not in str(await spoken_for(log, BOB))


async def test_what_is_pushed_is_its_subjects_too(log: Journal) -> None:
    results = log.subscribe((Filter(names=("completion:result",)),), after=Position(0))
    async with harness(script(), log=log) as ksi, results as pushed:
        await ksi.request("completion:async", {"prompt": "first", "session_id": "c1"}, subject=ALICE)
        await anext(aiter(pushed))
        await ksi.request("completion:async", {"prompt": "second", "session_id": "c1"})
        await anext(aiter(pushed))
        await ksi.restart()
        assert await clear(log) == []


async def test_what_if_is_asked_for_the_subject_of_what_is_changed(log: Journal) -> None:
    async with harness(script(), more=(State, TimeTravel), log=log) as ksi:
        await ksi.request("state:set", {"key": "who", "value": "first"}, subject=ALICE)
        first = next(each for each in await spoken_for(log, ALICE) if each.kind == "request")
        asked = {"at": first.position, "change": {"value": SECRET}, "live": True, "name": "exp"}
        answer = await ksi.request("timetravel:whatif", asked)
        assert SECRET in str(answer["entities"])
    every = (Filter(kinds=("fact", "request", "outcome", "chunk")),)
    told = [each async for each in log.read_all(every, branch="exp") if SECRET in str(each.data)]
    assert {each.subject for each in told} == {ALICE}
    assert [each.kind for each in await clear(log) if SECRET in str(each.data)] == ["request"]  # who asks has said it


async def test_an_answer_is_gone_on_with_for_whom_it_began(log: Journal) -> None:
    gate = Gate(passing=2)
    async with harness(script(gate=gate), log=log) as ksi:
        asking = asyncio.create_task(say(ksi, "first", subject=ALICE))
        await gate.reached.wait()
        await ksi.request("completion:cancel", {"run": "last"})
        await asyncio.gather(asking, return_exceptions=True)
        gate.open()
        await ksi.request("completion:resume", {"run": "last"})
        spoken = [each for each in await clear(log) if "You said" in str(each.data)]
        assert spoken == []
