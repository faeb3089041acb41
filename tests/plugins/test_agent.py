"""Agents: their turns, and that a crash in the middle of one costs nothing twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import CancelledError, ConflictError, NotFoundError, UnavailableError
from ksi.core.ports import Done, Journal, Unit
from ksi.plugins.agent import Agent
from ksi.providers.base import CompletionRequest
from ksi.store.memory import InMemoryEventStore
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import STORY, Gate, asked_text, harness, rest, script, take

pytestmark = pytest.mark.leakcheck
TURN = "01a00000-0000-7000-8000-000000000001"


async def spawn(ksi: EventTestHarness, agent: str = "fox", **more: object) -> None:
    await ksi.request("agent:spawn", {"agent": agent, **more})


async def passed_on(ksi: EventTestHarness) -> str:
    """What readers of the turn were given, over all its lives."""
    events = ksi.log.read_stream(f"turn/{TURN}")
    return "".join([event.data["text"] async for event in events if event.kind == "chunk"])


async def written(ksi: EventTestHarness) -> str:
    """What the model wrote, over all completions."""
    query = [event async for event in ksi.log.read_all() if event.name == "completion:started"]
    streams = [ksi.log.read_stream(event.stream) for event in query]
    return "".join([event.data["text"] for stream in streams async for event in stream if event.kind == "chunk"])


async def test_an_agent_answers_in_its_own_conversation_by_its_instructions() -> None:
    provider = script()
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi, system="You are a fox.")
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Who are you?", "from": "tester"})
        assert await rest(stream) == "You said: Who are you?"
        await ksi.request("agent:send_message", {"agent": "fox", "text": "Really?"})
        (listed,) = (await ksi.request("agent:list"))["agents"]
        answered = (await ksi.facts("agent:answered"))[0]
    assert [message.role for message in provider.requests[1].messages] == ["system", "user", "assistant", "user"]
    assert stream.answer["text"] == "You said: Who are you?"
    assert (stream.answer["agent"], stream.answer["conversation"]) == ("fox", "agent-fox")
    assert (stream.answer["finish_reason"], stream.answer["provider"]) == ("stop", "script")
    assert (listed["turns"], listed["output_tokens"], listed["status"]) == (2, 8, "idle")
    assert (answered.data["sender"], answered.data["completion"]) == ("tester", stream.answer["completion"])


async def test_two_agents_tell_a_story_by_turns() -> None:
    def next_word(request: CompletionRequest) -> str:
        return f"{asked_text(request)} {request.messages[0].parts[0].text}"  # type: ignore[union-attr]  # a text

    async with harness(script(next_word), more=(Agent,)) as ksi:
        await spawn(ksi, "ann", system="and")
        await spawn(ksi, "bob", system="on")
        story = "Once"
        for agent, other in (("ann", "bob"), ("bob", "ann")) * 2:
            turn = await ksi.request("agent:send_message", {"agent": agent, "text": story, "from": other})
            story = turn["text"]
    assert story == "Once and on and on"


async def test_messages_to_one_agent_are_answered_one_after_another() -> None:
    async with harness(script(), more=(Agent,)) as ksi:
        await spawn(ksi)
        messages = [{"agent": "fox", "text": f"message {number}"} for number in range(5)]
        await asyncio.gather(*(ksi.request("agent:send_message", message) for message in messages))
        found = await ksi.request("conversation:get", {"conversation": "agent-fox"})
    assert [message["parts"][0]["text"] for message in found["messages"][::2]] == [
        message["text"] for message in messages
    ]


async def test_a_name_is_given_once_at_a_time_and_begins_anew_after_its_end() -> None:
    async with harness(script(), more=(Agent,)) as ksi:
        await spawn(ksi)
        with pytest.raises(ConflictError):
            await spawn(ksi)
        await ksi.request("agent:terminate", {"agent": "fox"})
        with pytest.raises(NotFoundError):
            await ksi.request("agent:send_message", {"agent": "fox", "text": "Hello?"})
        with pytest.raises(NotFoundError):
            await ksi.request("agent:terminate", {"agent": "fox"})
        await spawn(ksi)
        turn = await ksi.request("agent:send_message", {"agent": "fox", "text": "Hello?"})
        idle = (await ksi.request("agent:list", {"status": "idle"}))["agents"]
        ended = (await ksi.request("agent:list", {"status": "terminated"}))["agents"]
    assert turn["conversation"] == "agent-fox-2"
    assert ([agent["spawns"] for agent in idle], ended) == ([2], [])


async def test_a_cancel_stops_the_model_in_the_middle_of_a_turn_and_keeps_what_was_said() -> None:
    gate = Gate(passing=3)
    provider = script([STORY], gate=gate)
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Go."})
        seen = await take(stream, 3)
        await gate.reached.wait()
        stream.cancel()
        with pytest.raises(CancelledError) as caught:
            await rest(stream)
        assert (caught.value.partial["text"], caught.value.partial["finish_reason"]) == (seen, "cancelled")
        found = await ksi.request("conversation:get", {"conversation": "agent-fox"})
    assert provider.streams_open == 0
    assert [(message["parts"][0]["text"], message["partial"]) for message in found["messages"]] == [
        ("Go.", False),
        (seen, True),
    ]


@pytest.mark.parametrize("how", ["turn", "completion", "agent"])
async def test_a_turn_that_is_stopped_says_what_its_completion_has_used(how: str) -> None:
    gate = Gate(passing=3)
    async with harness(script([STORY], gate=gate), more=(Agent,)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Go on, fox."}, event_id=TURN)
        await gate.reached.wait()
        match how:
            case "turn":
                stream.cancel()
            case "completion":
                await ksi.request("completion:cancel", {"run": TURN})
            case _:
                await ksi.request("agent:terminate", {"agent": "fox"})
        with pytest.raises(CancelledError) as caught:
            await rest(stream)
        (completion,) = await ksi.facts("completion:interrupted")
    assert caught.value.partial["usage"] == completion.data["usage"]
    assert completion.data["usage"] == {"input_tokens": 3, "output_tokens": 3, "estimated": True}


async def test_a_turn_that_was_cut_off_by_a_crash_and_then_stopped_counts_its_chunks() -> None:
    gate = Gate(passing=3)
    async with harness(script(lambda _: STORY, gate=gate), more=(Agent,)) as ksi:
        await spawn(ksi)
        ksi.stream("agent:send_message", {"agent": "fox", "text": "Go on, fox."}, event_id=TURN)
        await gate.reached.wait()
        gate.shut(passing=0)
        await ksi.crash()
        await gate.reached.wait()
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Go on, fox."}, event_id=TURN)
        ksi.kernel.router.running[UUID(TURN).bytes].abort()
        with pytest.raises(CancelledError) as caught:
            await rest(stream)
    assert caught.value.partial["usage"]["output_tokens"] == 3


async def test_a_completion_that_is_cancelled_ends_the_turn_that_waits_for_it() -> None:
    gate = Gate(passing=3)
    async with harness(script([STORY], gate=gate), more=(Agent,)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Go."}, event_id=TURN)
        await gate.reached.wait()
        stopped = await ksi.request("completion:cancel", {"run": TURN})
        with pytest.raises(CancelledError) as caught:
            await rest(stream)
    assert stopped["text"] == caught.value.partial["text"] == "Once upon a"


async def test_the_end_of_an_agent_ends_its_turn() -> None:
    gate = Gate(passing=3)
    provider = script([STORY], gate=gate)
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", {"agent": "fox", "text": "Go."})
        await gate.reached.wait()
        await ksi.request("agent:terminate", {"agent": "fox"})
        with pytest.raises(CancelledError):
            await rest(stream)
    assert provider.streams_open == 0


async def test_the_end_of_an_agent_ends_its_turn_for_all_who_read_it() -> None:
    gate = Gate(passing=3)
    async with harness(script([STORY], gate=gate), more=(Agent,)) as ksi:
        await spawn(ksi)
        message = {"agent": "fox", "text": "Go."}
        streams = [ksi.stream("agent:send_message", message, event_id=TURN) for _ in range(2)]
        await gate.reached.wait()
        await ksi.request("agent:terminate", {"agent": "fox"})
        for stream in streams:
            with pytest.raises(CancelledError):
                await rest(stream)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 6), min_size=1, max_size=2))
async def test_a_turn_that_crashes_cut_off_goes_on_by_itself_and_nothing_is_paid_for_twice(cuts: list[int]) -> None:
    gate = Gate(passing=cuts[0])
    provider = script(lambda _: STORY, gate=gate)
    message = {"agent": "fox", "text": "Go."}
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        ksi.stream("agent:send_message", message, event_id=TURN)
        for cut in [*cuts[1:], len(STORY.split())]:
            await gate.reached.wait()
            gate.shut(passing=cut)
            await ksi.crash()
        gate.open()
        turn = await ksi.request("agent:send_message", message, event_id=TURN)
        assert await passed_on(ksi) == await written(ksi) == turn["text"] == STORY
        (answered,) = await ksi.facts("agent:answered")
        found = await ksi.request("conversation:get", {"conversation": "agent-fox"})
    assert answered.data["completion"] == turn["completion"]
    assert answered.data["usage"] == turn["usage"]
    assert turn["usage"]["output_tokens"] == len(STORY.split())
    assert [text["parts"][0]["text"] for text in found["messages"]] == ["Go.", STORY]
    assert len(provider.requests) == len(cuts) + 1


class DyingLog:
    """A log that takes nothing any more once the fact ``last`` is in it: the daemon is about to crash."""

    def __init__(self, log: Journal, last: str) -> None:
        self._log = log
        self._last = last
        self.died = asyncio.Event()

    def write(self, unit: Unit, done: Done) -> None:
        if self.died.is_set():
            asyncio.get_running_loop().call_soon(done, None, UnavailableError("the log", "it died"))
            return
        if any(entry.name == self._last for entry in unit.entries):
            self.died.set()
        self._log.write(unit, done)

    def revive(self) -> None:
        self.died.clear()
        self._last = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


async def test_a_crash_between_the_end_of_the_completion_and_that_of_the_turn_asks_nobody_again() -> None:
    provider = script([STORY])
    message = {"agent": "fox", "text": "Go."}
    async with InMemoryEventStore() as store:
        log = DyingLog(store, "completion:finished")
        async with harness(provider, more=(Agent,), log=cast(Journal, log)) as ksi:
            await spawn(ksi)
            with pytest.raises(UnavailableError):
                await rest(ksi.stream("agent:send_message", message, event_id=TURN))
            log.revive()
            await ksi.crash()
            turn = await ksi.request("agent:send_message", message, event_id=TURN)
            assert await passed_on(ksi) == turn["text"] == STORY
            assert len(await ksi.facts("agent:answered")) == 1
        assert ksi.recovered.rerun == 1
    assert len(provider.requests) == 1
