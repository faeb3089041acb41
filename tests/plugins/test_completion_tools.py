"""Tools and schemas of a completion: what is asked for, what comes back, what stands in the conversation."""

from __future__ import annotations

import pytest

from ksi.core.errors import ProviderBugError
from ksi.providers.base import CompletionRequest, Message, TextPart, Tool, ToolCallDelta
from ksi.providers.budgets import input_tokens_max
from ksi.providers.script import Answer
from tests.plugins.scripted import harness, rest, script

ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
ASKED: list[str | ToolCallDelta] = [
    "let me see",
    ToolCallDelta(index=1, id="c2", name="add", arguments="{}"),
    ToolCallDelta(index=0, id="c1", name="add"),
]
ARGUMENTS = [ToolCallDelta(index=0, arguments='{"a":'), ToolCallDelta(index=0, arguments="2}")]


def answers(request: CompletionRequest) -> Answer:
    if request.messages[-1].role == "tool":
        return "it is two"
    return [*ASKED, *ARGUMENTS] if request.tools else "no tool"


async def test_calls_are_put_together_and_stand_in_the_conversation_with_what_they_gave() -> None:
    async with harness(script(answers)) as ksi:
        stream = ksi.stream("completion:create", {"prompt": "Add.", "conversation": "c", "tools": [ADD]})
        assert await rest(stream) == "let me see"
        calls = stream.answer["tool_calls"]
        assert [(call["id"], call["name"], call["arguments"]) for call in calls] == [
            ("c1", "add", {"a": 2}),
            ("c2", "add", {}),
        ]
        assert stream.answer["finish_reason"] == "tool_calls"
        results = [{"type": "tool_result", "id": call["id"], "content": "2"} for call in calls]
        told = [{"role": "tool", "parts": results}]
        again = await ksi.request("completion:create", {"messages": told, "conversation": "c", "tools": [ADD]})
        assert (again["text"], again["tool_calls"]) == ("it is two", [])
        said = (await ksi.request("conversation:get", {"conversation": "c"}))["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "assistant"]
    assert [part["type"] for part in said[1]["parts"]] == ["text", "tool_call", "tool_call"]


async def test_a_call_that_is_none_is_the_providers_fault() -> None:
    broken: Answer = [ToolCallDelta(index=0, id="c1", name="add", arguments="{half")]
    async with harness(script([broken])) as ksi:
        with pytest.raises(ProviderBugError):
            await ksi.request("completion:create", {"prompt": "Add.", "tools": [ADD]})


def test_tools_and_schemas_count_among_what_is_read() -> None:
    message = Message(role="user", parts=(TextPart(text="Add."),))
    plain = CompletionRequest(messages=(message,), model="m")
    tool = Tool(name="add", description="x" * 500, parameters={})
    schema = {"description": "y" * 700}
    with_both = CompletionRequest(messages=(message,), model="m", tools=(tool,), response_schema=schema)
    assert input_tokens_max(with_both) >= input_tokens_max(plain) + 1200
