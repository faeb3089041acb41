"""Agents that are paused, begin again, fail and are told things together: each by itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ksi.core.errors import (
    CancelledError,
    ConflictError,
    NotFoundError,
    ProviderBugError,
    ProviderOverloadedError,
    ValidationError,
)
from ksi.core.events import Filter
from ksi.plugins.agent import Agent
from ksi.plugins.composition import Composition
from ksi.providers.base import CompletionRequest, TextPart
from ksi.providers.script import Answer
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import STORY, Gate, asked_text, harness, rest, script

pytestmark = pytest.mark.leakcheck


async def spawn(ksi: EventTestHarness, agent: str = "ada", **more: Any) -> None:
    await ksi.request("agent:spawn", {"agent": agent, **more})


async def say(ksi: EventTestHarness, text: str = "Go.", agent: str = "ada") -> Any:
    return await ksi.request("agent:send_message", {"agent": agent, "text": text})


async def said(ksi: EventTestHarness, text: str) -> None:
    """Say it, however that ends."""
    with suppress(ProviderBugError):
        await say(ksi, text)


async def record(ksi: EventTestHarness, agent: str = "ada") -> Any:
    listed = (await ksi.request("agent:list"))["agents"]
    return next(each for each in listed if each["agent"] == agent)


def failing(request: CompletionRequest) -> Answer:
    """Fails where it is told to."""
    if asked_text(request) == "Fail.":
        return ["Half", ProviderBugError("broken", provider="script")]
    return "Done."


async def test_a_paused_agent_takes_no_messages_until_it_is_resumed() -> None:
    gate = Gate(passing=2)
    async with harness(script([STORY, "Back."], gate=gate), more=(Agent,)) as ksi:
        await spawn(ksi)
        under_way = ksi.stream("agent:send_message", {"agent": "ada", "text": "Go."})
        await gate.reached.wait()
        await ksi.request("agent:pause", {"agent": "ada"})
        with pytest.raises(ConflictError, match="is paused"):
            await say(ksi)
        with pytest.raises(ConflictError):
            await ksi.request("agent:pause", {"agent": "ada"})
        gate.open()
        assert await rest(under_way) == STORY
        await ksi.restart()
        with pytest.raises(ConflictError):
            await say(ksi)
        await ksi.request("agent:resume", {"agent": "ada"})
        assert (await say(ksi))["text"] == "Back."


async def test_an_agent_that_fails_more_often_than_it_may_takes_nothing_until_it_is_restarted() -> None:
    async with harness(script(failing), more=(Agent,)) as ksi:
        await spawn(ksi, restarts=1)
        await spawn(ksi, "bob")
        for text in ("Fail.", "Go.", "Fail.", "Fail."):
            await said(ksi, text)
            assert (await say(ksi, agent="bob"))["text"] == "Done."
        with pytest.raises(ConflictError, match="is failed"):
            await say(ksi)
        failed = [fact.data for fact in await ksi.facts("agent:failed")]
        assert [(each["code"], each["failures"]) for each in failed] == [
            ("provider_bug", number) for number in (1, 1, 2)
        ]
        assert (await record(ksi, "bob"))["status"] == "idle"
        restarted = await ksi.request("agent:restart", {"agent": "ada"})
        assert (restarted["status"], restarted["failures"], restarted["turns"]) == ("idle", 0, 1)
        assert (await say(ksi))["text"] == "Done."
        assert await record(ksi) == (await ksi.request("agent:list"))["agents"][0]


async def test_an_agent_that_nobody_bounds_fails_as_often_as_it_likes() -> None:
    async with harness(script(failing), more=(Agent,)) as ksi:
        await spawn(ksi)
        for _ in range(3):
            with pytest.raises(ProviderBugError):
                await say(ksi, "Fail.")
        assert (await say(ksi))["text"] == "Done."


async def test_what_who_asks_did_wrong_is_no_failure_of_the_agent() -> None:
    async with harness(script(["never"]), more=(Agent,)) as ksi:
        await spawn(ksi, restarts=0, provider="nobody")
        with pytest.raises(NotFoundError):
            await say(ksi)
        with pytest.raises(ValidationError):
            await ksi.request("agent:send_message", {"agent": "ada"})
        assert (await record(ksi))["status"] == "idle"


async def test_a_restart_ends_the_turns_and_keeps_the_conversation_or_begins_another() -> None:
    gate = Gate(passing=2)
    provider = script([STORY, "One.", "Two."], gate=gate)
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi, system="You are Ada.")
        under_way = ksi.stream("agent:send_message", {"agent": "ada", "text": "Go."})
        await gate.reached.wait()
        await ksi.request("agent:restart", {"agent": "ada"})
        with pytest.raises(CancelledError):
            await rest(under_way)
        gate.open()
        again = await say(ksi)
        await ksi.request("agent:restart", {"agent": "ada", "fresh": True})
        fresh = await say(ksi)
    assert again["conversation"] == "agent-ada" != fresh["conversation"]
    assert [len(request.messages) for request in provider.requests] == [2, 4, 2]


async def test_a_restarted_agent_is_what_its_profile_says_now(tmp_path: Path) -> None:
    file = tmp_path / "profiles/clerk.yaml"
    file.parent.mkdir()
    file.write_text("prompt: 'One, {{tone}}.'\nvariables: {tone: warm}\nmax_steps: 3\n")
    async with harness(script(), more=(Composition, Agent), home=tmp_path) as ksi:
        await spawn(ksi, profile="clerk", variables={"tone": "dry"}, max_steps=5)
        file.write_text("prompt: 'Two, {{tone}}.'\nvariables: {tone: warm}\nmax_steps: 3\nmax_tokens: 9\n")
        restarted = await ksi.request("agent:restart", {"agent": "ada"})
        assert (restarted["system"], restarted["max_steps"], restarted["max_tokens"]) == ("Two, dry.", 5, 9)
        assert await record(ksi) | {"updated_at": ""} == restarted | {"updated_at": ""}


async def test_a_broadcast_reaches_all_but_who_says_it_and_one_failure_stops_no_other() -> None:
    def answer(request: CompletionRequest) -> Answer:
        is_bad = request.messages[0].parts == (TextPart(text="bad"),)
        return [ProviderOverloadedError("busy", provider="script")] if is_bad else "Done."

    async with harness(script(answer), more=(Agent,)) as ksi:
        for agent in ("ada", "bad", "bob", "eve", "zoe"):
            await spawn(ksi, agent, system=agent)
        await ksi.request("agent:pause", {"agent": "zoe"})
        told = await ksi.request("agent:broadcast", {"text": "What is new?", "from": "eve"})
        assert told["agents"] == ["ada", "bad", "bob"]
        async with asyncio.timeout(5):
            ends = (Filter(names=("agent:answered", "agent:failed")),)
            async with ksi.log.subscribe(ends, after="start") as subscription:
                events = aiter(subscription)
                for _ in told["agents"]:
                    await anext(events)
        answered = await ksi.facts("agent:answered")
        assert {(fact.data["agent"], fact.data["sender"]) for fact in answered} == {("ada", "eve"), ("bob", "eve")}
        assert {fact.correlation_id for fact in answered} == {told["run"]}
        with pytest.raises(ConflictError):
            await ksi.request("agent:broadcast", {"text": "Go.", "agents": ["ada", "zoe"]})
        with pytest.raises(NotFoundError) as missing:
            await ksi.request("agent:broadcast", {"text": "Go.", "agents": ["adaa"]})
        assert missing.value.suggestions == ["ada"]
