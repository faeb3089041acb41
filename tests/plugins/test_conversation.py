"""Conversations: who speaks when, and what stands in them after answers that were cut off."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from ksi.core.errors import CancelledError, ConflictError, NotFoundError, OverloadedError, PayloadTooLargeError
from ksi.plugins import conversation
from ksi.providers.base import CompletionRequest, TextPart
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


# ── searched, exported, forked ───────────────────────────────────────────────────────────────────────────────────────
async def test_messages_are_found_by_what_they_say_the_newest_first() -> None:
    async with harness(script()) as ksi:
        await ksi.request("completion:create", say("A lighthouse by the sea"))
        await ksi.request("completion:create", say("The LIGHTHOUSE keeper", conversation="c2"))
        await ksi.request("completion:create", say("Nothing"))
        answer = await ksi.request("conversation:search", {"text": "lighthouse"})
        newest = await ksi.request("conversation:search", {"text": "lighthouse", "limit": 1})
        none = await ksi.request("conversation:search", {"text": "harbour"})
    assert [(each["conversation"], each["role"]) for each in answer["found"]] == [
        ("c2", "assistant"), ("c2", "user"), ("c1", "assistant"), ("c1", "user"),
    ]  # fmt: skip
    assert answer["found"][1]["excerpt"] == "The LIGHTHOUSE keeper"
    assert newest["found"] == answer["found"][:1]
    assert none == {"found": [], "complete": True}


async def test_a_search_looks_at_so_many_messages_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SEARCHED_MAX", 2)
    async with harness(script()) as ksi:
        await ksi.request("completion:create", say("old"))
        await ksi.request("completion:create", say("new"))
        answer = await ksi.request("conversation:search", {"text": "old"})
    assert answer == {"found": [], "complete": False}


async def test_a_conversation_is_exported_as_lines_of_json_and_in_markdown() -> None:
    async with harness(script()) as ksi:
        await ksi.request("completion:create", say("one"))
        exported = ksi.stream("conversation:export", {"conversation": "c1"})
        lines = [json.loads(chunk["text"]) async for chunk in exported]
        markdown = ksi.stream("conversation:export", {"conversation": "c1", "format": "markdown"})
        text = "".join([chunk["text"] async for chunk in markdown])
        with pytest.raises(NotFoundError):
            await ksi.request("conversation:export", {"conversation": "c9"})
    assert [line["role"] for line in lines] == ["user", "assistant"]
    assert exported.answer == {"conversation": "c1", "messages": 2}
    assert text == "## user\n\none\n## assistant\n\nYou said: one\n"


async def test_a_fork_goes_on_from_where_it_was_cut_and_leaves_the_other_as_it_is() -> None:
    provider = script()
    async with harness(provider) as ksi:
        await ksi.request("completion:create", say("one"))
        at = (await ksi.request("conversation:get", {"conversation": "c1"}))["position"]
        await ksi.request("completion:create", say("two"))
        forked = await ksi.request("conversation:fork", {"conversation": "c1", "into": "c2", "at": at})
        await ksi.request("completion:create", say("three", conversation="c2"))
        assert [role for role, _ in await spoken(ksi)] == ["user", "assistant"] * 2
        with pytest.raises(ConflictError):
            await ksi.request("conversation:fork", {"conversation": "c1", "into": "c2"})
        with pytest.raises(NotFoundError):
            await ksi.request("conversation:fork", {"conversation": "c9", "into": "c3"})
        (said,) = await ksi.facts("conversation:was_forked")
    told = provider.requests[-1].messages
    assert (forked["messages"], said.data) == (2, {"source": "c1", "at": at})
    assert [part.text for message in told for part in message.parts if isinstance(part, TextPart)] == [
        "one", "You said: one", "three",
    ]  # fmt: skip


async def test_a_fork_takes_so_many_messages_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "FORKED_MAX", 1)
    async with harness(script()) as ksi:
        await ksi.request("completion:create", say("one"))
        with pytest.raises(PayloadTooLargeError):
            await ksi.request("conversation:fork", {"conversation": "c1", "into": "c2"})
        assert await ksi.facts("conversation:was_forked") == []
