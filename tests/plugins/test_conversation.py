"""Conversations: who speaks when, and what stands in them after answers that were cut off."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from ksi.core.errors import CancelledError, NotFoundError, OverloadedError
from ksi.providers.base import CompletionRequest
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import STORY, Gate, asked_text, harness, rest, script, take, until_queued

pytestmark = pytest.mark.leakcheck


def say(text: str, **more: object) -> dict[str, object]:
    return {"prompt": text, "conversation": "c1", **more}


async def spoken(ksi: EventTestHarness, **at: int) -> list[tuple[str, str]]:
    """Role and text of each message of the conversation."""
    found = await ksi.request("conversation:get", {"conversation": "c1", **at})
    return [(message["role"], text_of(message)) for message in found["messages"]]


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"])


async def test_the_model_is_told_what_was_said_before() -> None:
    provider = script()
    async with harness(provider) as ksi:
        await ksi.request("completion:create", say("one"))
        await ksi.request("completion:create", say("two", system="Be brief."))
    assert [message.role for message in provider.requests[1].messages] == ["system", "user", "assistant", "user"]
    assert asked_text(provider.requests[1]) == "two"


async def test_a_conversation_is_read_as_it_was_at_any_position() -> None:
    async with harness(script()) as ksi:
        await ksi.request("completion:create", say("one"))
        at = (await ksi.request("conversation:get", {"conversation": "c1"}))["position"]
        await ksi.request("completion:create", say("two"))
        assert await spoken(ksi, at=at) == [("user", "one"), ("assistant", "You said: one")]
        assert await spoken(ksi) == [
            ("user", "one"),
            ("assistant", "You said: one"),
            ("user", "two"),
            ("assistant", "You said: two"),
        ]
        with pytest.raises(NotFoundError):
            await spoken(ksi, at=1)


async def test_questions_that_are_asked_at_once_are_answered_in_their_order_and_each_sees_the_one_before() -> None:
    provider = script()
    async with harness(provider) as ksi:
        prompts = [f"question {number}" for number in range(10)]
        await asyncio.gather(*(ksi.request("completion:create", say(prompt)) for prompt in prompts))
        texts = [text for role, text in await spoken(ksi) if role == "user"]
    assert texts == prompts
    for before, after in pairwise(provider.requests):
        assert after.messages[: len(before.messages)] == before.messages
        assert len(after.messages) == len(before.messages) + 2


async def test_who_waits_for_a_conversation_takes_no_place_at_the_provider() -> None:
    gate = Gate(passing=1)
    async with harness(script(gate=gate), concurrent=2) as ksi:
        first = ksi.stream("completion:create", say("one"))
        await gate.reached.wait()
        second = ksi.stream("completion:create", say("two"))
        await until_queued(ksi, 1)
        gate.shut(passing=100)
        other = await ksi.request("completion:create", {"prompt": "elsewhere"})
        gate.open()
        await rest(first)
        await rest(second)
    assert other["text"] == "You said: elsewhere"


async def test_too_many_who_wait_for_a_conversation_are_refused() -> None:
    gate = Gate()
    async with harness(script(gate=gate), queue_size_max=1) as ksi:
        streams = [ksi.stream("completion:create", say("one"))]
        await gate.reached.wait()
        streams.append(ksi.stream("completion:create", say("two")))
        await until_queued(ksi, 1)
        with pytest.raises(OverloadedError):
            await ksi.request("completion:create", say("three"))
        gate.open()
        assert [await rest(stream) for stream in streams] == ["You said: one", "You said: two"]


async def test_an_answer_that_was_stopped_stands_as_partial_until_it_is_gone_on_with() -> None:
    gate = Gate(passing=3)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        stream = ksi.stream("completion:create", say("Go."))
        await take(stream, 3)
        await ksi.request("completion:cancel", {"run": "last"})
        with pytest.raises(CancelledError):
            await rest(stream)
        partial = (await ksi.request("conversation:get", {"conversation": "c1"}))["messages"]
        listed = (await ksi.request("conversation:list"))["conversations"]
        gate.open()
        await ksi.request("completion:resume", {"run": "last"})
        whole = (await ksi.request("conversation:get", {"conversation": "c1"}))["messages"]
        relisted = (await ksi.request("conversation:list"))["conversations"]
    assert [(text_of(message), message["partial"]) for message in partial] == [("Go.", False), ("Once upon a", True)]
    assert [(text_of(message), message["partial"]) for message in whole] == [("Go.", False), (STORY, False)]
    assert listed[0]["partial"] == [partial[1]["completion"]]
    assert (relisted[0]["messages"], relisted[0]["partial"]) == (2, [])


async def test_what_was_cut_off_by_a_crash_enters_the_conversation_with_its_resume() -> None:
    gate = Gate(passing=3)
    async with harness(script(lambda _: STORY, gate=gate)) as ksi:
        ksi.stream("completion:create", say("Go."))
        await gate.reached.wait()
        await ksi.crash()
        with pytest.raises(NotFoundError):
            await spoken(ksi)
        gate.open()
        await ksi.request("completion:resume", {"run": "last"})
        assert await spoken(ksi) == [("user", "Go."), ("assistant", STORY)]


async def test_one_that_was_stopped_before_it_said_anything_leaves_no_trace_in_the_conversation() -> None:
    gate = Gate()
    async with harness(script(gate=gate)) as ksi:
        stream = ksi.stream("completion:create", say("Go."))
        await gate.reached.wait()
        await ksi.request("completion:cancel", {"run": "last"})
        with pytest.raises(CancelledError):
            await rest(stream)
        with pytest.raises(NotFoundError):
            await spoken(ksi)


async def test_messages_of_many_parts_go_to_the_provider_as_they_are() -> None:
    seen: list[CompletionRequest] = []

    def answer(request: CompletionRequest) -> str:
        seen.append(request)
        return "A cat."

    picture = {"type": "file", "uri": "data:image/png;base64,AA==", "media_type": "image/png"}
    messages = [{"parts": [{"type": "text", "text": "What is it?"}, picture]}]
    async with harness(script(answer)) as ksi:
        await ksi.request("completion:create", {"messages": messages, "conversation": "c1"})
        (said, _) = (await ksi.request("conversation:get", {"conversation": "c1"}))["messages"]
    assert said["parts"][1] == picture
    assert len(seen[0].messages[0].parts) == 2
