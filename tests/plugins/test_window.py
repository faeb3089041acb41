"""Conversations that outgrow their model's window: they fail, are trimmed or summed up, and one can see it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import ContextLengthError
from ksi.plugins.agent import Agent
from ksi.plugins.completion.window import SUMMARISE, tokens_of
from ksi.providers.base import CompletionRequest, TextPart, ToolCallDelta
from ksi.providers.script import Answer, ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import asked_text, harness, rest, script
from tests.plugins.test_agent_tools import Hammer

WINDOW = 400
LONG = "word " * 60
"""About a hundred tokens."""


def answer(request: CompletionRequest) -> str:
    if system_of(request).startswith(SUMMARISE):
        return f"[{asked_text(request).count('user:')} turns]"
    return "Yes."


def system_of(request: CompletionRequest) -> str:
    first = request.messages[0]
    return "".join(part.text for part in first.parts if isinstance(part, TextPart)) if first.role == "system" else ""


async def say(ksi: EventTestHarness, text: str, when_full: str = "trim", **more: Any) -> Any:
    asked = {"prompt": text, "conversation": "c1", "max_tokens": 20, "when_full": when_full, "window": WINDOW}
    return await ksi.request("completion:create", asked | more)


async def shown(ksi: EventTestHarness, conversation: str = "c1") -> Any:
    return await ksi.request("conversation:get", {"conversation": conversation})


async def exported(ksi: EventTestHarness, form: str) -> str:
    return await rest(ksi.stream("conversation:export", {"conversation": "c1", "format": form}))


async def test_the_oldest_turns_are_left_out_and_stay_in_the_log() -> None:
    provider = script(answer)
    async with harness(provider) as ksi:
        for number in range(9):
            await say(ksi, f"{number} {LONG}")
        found = await shown(ksi)
        trimmed = [fact.data for fact in await ksi.facts("conversation:was_trimmed")]
        markdown, lines = await exported(ksi, "markdown"), await exported(ksi, "json")
    assert all(tokens_of(request.messages) + 20 <= WINDOW for request in provider.requests)
    assert all(request.messages[0].role == "user" for request in provider.requests)
    assert len(found["messages"]) == 18
    assert found["left_out"] == trimmed[-1]["left_out"] > 0
    assert len(trimmed) == 3  # room is made for more than one turn
    assert trimmed[0]["tokens"] > trimmed[0]["window"] == WINDOW
    assert "what stands above is told no more" in markdown
    assert lines.count('"told":false') == found["left_out"]


async def test_what_is_left_out_is_summed_up_and_the_sum_is_told_and_summed_up_again() -> None:
    provider = script(answer)
    async with harness(provider) as ksi:
        for number in range(12):
            await say(ksi, f"{number} {LONG}", "summarise", window=700, system="Be kind.")
        summaries = [fact.data["summary"] for fact in await ksi.facts("conversation:was_summarised")]
        found = await shown(ksi)
        markdown = await exported(ksi, "markdown")
        await ksi.request("conversation:fork", {"conversation": "c1", "into": "c2"})
        assert {name: (await shown(ksi, "c2"))[name] for name in ("left_out", "summary")} == {
            name: found[name] for name in ("left_out", "summary")
        }
    asked = [request for request in provider.requests if system_of(request).startswith(SUMMARISE)]
    assert len(asked) == len(summaries) > 1
    assert asked_text(asked[1]).startswith(f"What was said before, summed up: {summaries[0]}")
    assert system_of(provider.requests[-1]) == f"Be kind.\n\nWhat was said before, summed up: {summaries[-1]}"
    assert found["summary"] == summaries[-1]
    assert f"In its place: {summaries[-1]}" in markdown


@pytest.mark.parametrize("when_full", ["fail", "trim", "summarise"])
async def test_where_nothing_can_be_left_out_the_provider_says_whether_it_fits(when_full: str) -> None:
    refusing = script([[ContextLengthError("too long", provider="script")], "Yes."])
    async with harness(refusing) as ksi:
        with pytest.raises(ContextLengthError):
            await say(ksi, LONG * 9, when_full)
        assert (await say(ksi, LONG * 9, when_full))["text"] == "Yes."
        (outgrown,) = await ksi.facts("conversation:has_outgrown")
    assert (outgrown.stream, outgrown.data["reason"]) == ("conversation/c1", "script: too long")


async def test_a_summary_needs_no_second_place_at_the_provider() -> None:
    async with harness(script(answer), concurrent=1) as ksi:
        for number in range(8):
            await say(ksi, f"{number} {LONG}", "summarise", window=700)
        assert await ksi.facts("conversation:was_summarised")


def hammering(request: CompletionRequest) -> Answer:
    """Calls a tool once in each turn."""
    if request.messages[-1].role == "tool":
        return "Done."
    return [ToolCallDelta(index=0, id="call-0", name="hammer__use", arguments='{"nail":"steel"}')]


async def test_an_agents_turn_with_its_tools_is_left_out_whole() -> None:
    provider = script(hammering)
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        ada = {"agent": "ada", "tools": ["hammer:use"], "when_full": "trim", "window": WINDOW, "max_tokens": 20}
        await ksi.request("agent:spawn", ada)
        for _ in range(5):
            await ksi.request("agent:send_message", {"agent": "ada", "text": LONG})
        assert await ksi.facts("conversation:was_trimmed")
    assert all(request.messages[0].role == "user" for request in provider.requests)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
async def test_whatever_is_said_the_request_fits_or_is_the_new_message_alone(lengths: list[int]) -> None:
    provider: ScriptProvider = script(answer)
    async with harness(provider) as ksi:
        for length in lengths:
            await say(ksi, "x" * length * 5 + ".")
    requests = provider.requests
    assert all(tokens_of(each.messages) + 20 <= WINDOW or len(each.messages) == 1 for each in requests)
