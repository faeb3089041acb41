"""Completions and agents, repeated without a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ksi.core.errors import KSIError
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.replay import Replayed
from ksi.plugins.agent import Agent
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.permission import Permission
from ksi.plugins.state import State
from ksi.providers.base import ToolCallDelta
from ksi.providers.desk import Desk, Offer
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import newest_run, replayed
from tests.plugins.scripted import STORY, Gate, harness, rest, script, take


class GoneDesk(AsyncPlugin):
    """Providers that are not there any more."""

    name = "gone-desk"
    provides = (Desk,)

    def services(self) -> Mapping[type, Any]:
        def make() -> Any:
            raise AssertionError("a provider was asked")

        return {Desk: Desk([Offer(name="script", make=make)], default="other")}


async def again(ksi: EventTestHarness, run: str | None = None, *more: type[AsyncPlugin]) -> Replayed:
    return await replayed(ksi.log, GoneDesk, Conversation, Completion, *(more or (Agent,)), run=run)


async def test_a_completion_is_repeated_without_its_provider() -> None:
    async with harness(script([STORY])) as ksi:
        await ksi.request("completion:create", {"prompt": "Go.", "conversation": "c1"})
        found = await again(ksi)
    assert (found.requests, found.chunks, found.effects, found.facts) == (1, len(STORY.split()), 1, 4)


async def test_turns_of_agents_are_repeated_without_their_provider() -> None:
    async with harness(script(), more=[Agent]) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada"})
        await again(ksi)
        for text in ("one", "two"):
            await ksi.request("agent:send_message", {"agent": "ada", "text": text})
            found = await again(ksi)
            assert (found.requests, found.chunks) == (2, 6)


@pytest.mark.parametrize("event", ["completion:create", "agent:send_message"])
async def test_what_was_cancelled_is_repeated_with_its_partial_answer(event: str) -> None:
    async with harness(script([STORY], gate=Gate(passing=4)), more=[Agent]) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada"})
        data = {"prompt": "Go.", "conversation": "c1"} if event.startswith("c") else {"agent": "ada", "text": "Go."}
        stream = ksi.stream(event, data)
        await take(stream, 4)
        stream.cancel()
        with pytest.raises(KSIError):
            await rest(stream)
        found = await again(ksi)
    assert found.cut_off == found.requests


async def test_what_a_crash_cut_off_and_its_continuation_are_repeated() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Go.", "conversation": "c1"})
        await take(stream, 4)
        await ksi.crash()
        cut_off = await newest_run(ksi.log)
        gate.open()
        assert await rest(ksi.stream("completion:resume", {"run": "last"}))
        resumed = await newest_run(ksi.log)
        assert (await again(ksi, cut_off, Conversation)).cut_off == 1
        assert (await again(ksi, resumed, Conversation)).cut_off == 0


async def test_a_turn_that_a_crash_cut_off_and_that_went_on_is_repeated() -> None:
    gate = Gate(passing=4)
    async with harness(script(lambda _: STORY, gate=gate), more=[Agent]) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada"})
        stream = ksi.stream("agent:send_message", {"agent": "ada", "text": "Go."})
        await take(stream, 4)
        run = await newest_run(ksi.log)
        gate.open()
        await ksi.crash()
        await ksi.request("completion:status")
        async with ksi.log.subscribe(after="start") as events:
            async for event in events:
                if event.name == "agent:answered":
                    break
        found = await again(ksi, run)
    assert (found.requests, found.cut_off) == (3, 1)


async def test_a_turn_with_tools_is_repeated_also_what_was_denied_and_failed() -> None:
    calls = [
        ToolCallDelta(index=index, id=str(index), name=name, arguments='{"key":"a"}')
        for index, name in enumerate(("state__get", "state__delete", "state__set", "no__such"))
    ]
    provider = script([["Wait. ", *calls], "Well."])
    async with harness(provider, more=[Agent, State, Permission]) as ksi:
        tools = ["state:get", "state:delete", "state:set"]
        await ksi.request("state:set", {"key": "a", "value": 1})
        await ksi.request("agent:spawn", {"agent": "ada", "tools": tools})
        await ksi.request("permission:grant", {"principal": "agent:ada", "deny": ["state:set"]})
        await ksi.request("agent:send_message", {"agent": "ada", "text": "Go."})
        run = await newest_run(ksi.log)
        await ksi.request("permission:revoke", {"principal": "agent:ada"})
        found = await again(ksi, run, Agent, State, Permission)
    assert (found.requests, len(provider.requests)) == (4, 2)
