"""Answers that must fit a JSON schema: held to it or asked for in words, corrected, refused at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ksi.core.errors import InvalidAnswerError, ValidationError
from ksi.plugins.agent import Agent
from ksi.plugins.agent.form import RETRIES, Form
from ksi.providers.base import Capabilities, CompletionRequest, TextPart
from ksi.providers.schema_as_text import INTRODUCTION
from ksi.providers.script import Answer, ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import Gate, asked_text, harness, rest, script
from tests.plugins.test_agent_tools import NAIL, Hammer

pytestmark = pytest.mark.leakcheck
TURN = "01a00000-0000-7000-8000-000000000003"
SEA: Any = {"type": "object", "properties": {"depth": {"type": "integer"}}, "required": ["depth"]}


class Plain(ScriptProvider):
    """One that can hold no answer to a schema."""

    capabilities = Capabilities(continues=True)


async def spawn(ksi: EventTestHarness, **more: Any) -> None:
    await ksi.request("agent:spawn", {"agent": "ada", "response_schema": SEA, **more})


async def ask(ksi: EventTestHarness, **more: Any) -> Any:
    return await ksi.request("agent:send_message", {"agent": "ada", "text": "How deep?", **more})


def told(request: CompletionRequest) -> Sequence[str]:
    parts = [part for message in request.messages if message.role == "system" for part in message.parts]
    return [part.text for part in parts if isinstance(part, TextPart)]


async def test_a_provider_that_can_is_given_the_schema_and_the_value_is_in_the_answer() -> None:
    provider = script(['{"depth": 3}'])
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        turn = await ask(ksi)
    assert provider.requests[0].response_schema == SEA
    assert (turn["structured"], turn["text"]) == ({"depth": 3}, '{"depth": 3}')


async def test_one_that_can_not_is_told_in_words_and_a_fence_is_no_fault() -> None:
    provider = Plain(['```json\n{"depth": 3}\n```'])
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi, system="You are the sea.")
        turn = await ask(ksi)
    (request,) = provider.requests
    first, second = told(request)
    assert first.startswith(INTRODUCTION)
    assert '"required":["depth"]' in first
    assert second == "You are the sea."
    assert (request.response_schema, turn["structured"]) == (None, {"depth": 3})


async def test_a_model_is_told_what_is_wrong_and_readers_see_only_what_fits() -> None:
    provider = Plain(["Three fathoms.", '{"depth": "3"}', '{"depth": 3}'])
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", {"agent": "ada", "text": "How deep?"})
        assert await rest(stream) == stream.answer["text"] == '{"depth": 3}'
    assert "it is no JSON" in asked_text(provider.requests[1])
    assert 'depth: "3" is not of type "integer"' in asked_text(provider.requests[2])
    assert stream.answer["usage"]["output_tokens"] == 2 + 2 + 2


async def test_a_model_that_does_not_learn_it_ends_in_an_error_that_says_what_is_wrong() -> None:
    provider = Plain(lambda _: '{"deep": 3}')
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        with pytest.raises(InvalidAnswerError) as caught:
            await ask(ksi)
        (failed,) = await ksi.facts("agent:failed")
    assert len(provider.requests) == 1 + RETRIES
    assert "depth" in caught.value.problem
    assert caught.value.partial["text"] == '{"deep": 3}'
    assert failed.data["code"] == "invalid_answer"


async def test_steps_bound_corrections_too_and_a_message_may_bring_its_own_schema() -> None:
    provider = Plain(lambda _: "[1]")
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi, max_steps=1)
        with pytest.raises(InvalidAnswerError):
            await ask(ksi)
        assert len(provider.requests) == 1
        assert (await ask(ksi, response_schema={"type": "array"}))["structured"] == [1]


async def test_tools_are_called_before_the_answer_has_its_form() -> None:
    def answer(request: CompletionRequest) -> Answer:
        return '{"depth": 3}' if request.messages[-1].role == "tool" else ["Wait. ", NAIL]

    async with harness(script(answer), more=(Agent, Hammer)) as ksi:
        await spawn(ksi, tools=["hammer:use"])
        assert (await ask(ksi))["structured"] == {"depth": 3}


async def test_after_a_crash_in_a_correction_nothing_is_asked_for_twice() -> None:
    gate = Gate(passing=2)
    answers = ["Three fathoms.", '{"depth": 3}', '{"depth": 3}']
    provider = Plain(answers, before_token=gate)
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi)
        message = {"agent": "ada", "text": "How deep?"}
        ksi.stream("agent:send_message", message, event_id=TURN)
        async with asyncio.timeout(5):
            await gate.reached.wait()
        gate.open()
        await ksi.crash()
        turn = await ksi.request("agent:send_message", message, event_id=TURN)
        assert turn["structured"] == {"depth": 3}
        assert len(await ksi.facts("agent:answered")) == 1
    assert [request.continue_text for request in provider.requests] == [None] * 3


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "file:///etc/passwd"}, {"pattern": "("}]
)
async def test_what_is_no_schema_is_refused_at_once_and_nothing_is_fetched(schema: Any) -> None:
    with pytest.raises(ValidationError, match="no JSON schema"):
        Form(schema)
    async with harness(script(), more=(Agent,)) as ksi:
        with pytest.raises(ValidationError):
            await spawn(ksi, response_schema=schema)
        assert (await ksi.request("agent:list"))["agents"] == []
