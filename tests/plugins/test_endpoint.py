"""KSI as a provider, asked by the packages of OpenAI and Anthropic over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from ksi.core import canonical
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.budget import Budget
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.endpoint import Endpoint
from ksi.plugins.permission import Permission
from ksi.providers.base import CompletionRequest, TextPart, ToolCallDelta, ToolResultPart
from ksi.providers.desk import Desk, Offer
from ksi.providers.script import Answer, Hold, ScriptProvider
from ksi.transport.budget import Limits
from tests.transport.http.site import Site, serving

HELLO: Any = [{"role": "user", "content": "say hello there"}]
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def answer(request: CompletionRequest) -> Answer:
    """Says what it is told; asks for its tool first, where it has one."""
    last = request.messages[-1].parts[-1]
    if request.response_schema is not None:
        return canonical.encode({"schema": request.response_schema["title"]}).decode()
    if isinstance(last, ToolResultPart):
        return f"it is {last.content}"
    if request.tools:
        return ["let me see", ToolCallDelta(index=0, id="c1", name="add"), ToolCallDelta(index=0, arguments='{"a":2}')]
    assert isinstance(last, TextPart)
    return last.text.removeprefix("say ")


class Script:
    """What stands behind the endpoint."""

    def __init__(self) -> None:
        self.hold = Hold(at=1)
        self.provider = ScriptProvider(answer, before_token=self._before, models=("m", "held"))

    async def _before(self, index: int) -> None:
        if self.provider.requests[-1].model == "held":
            await self.hold(index)


@pytest.fixture
def script() -> Script:
    return Script()


def plugins_with(script: Script) -> tuple[type[AsyncPlugin], ...]:
    """All that an answer needs."""
    offer = Offer(name="script", make=lambda: script.provider, models=("m", "held"))

    class OwnDesk(AsyncPlugin):
        name = "own-desk"
        provides = (Desk,)

        def services(self) -> Mapping[type, Any]:
            return {Desk: Desk([offer], default="script")}

    return (Permission, OwnDesk, Conversation, Budget, Completion, Agent, Endpoint)


@pytest.fixture
async def site(tmp_path: Path, script: Script) -> AsyncIterator[Site]:
    async with serving(tmp_path, plugins=plugins_with(script)) as site:
        yield site


@pytest.fixture
async def ai(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.token, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(site: Site) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=site.url, api_key=site.token, max_retries=0) as client:
        yield client


async def test_models_and_agents_are_listed(site: Site, ai: openai.AsyncOpenAI) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada"})
    assert [model.id async for model in ai.models.list()] == ["m", "held", "agent:ada"]
    assert (await ai.models.retrieve("agent:ada")).id == "agent:ada"
    with pytest.raises(openai.NotFoundError):
        await ai.models.retrieve("nobody")


async def test_a_model_answers_whole_and_its_completion_is_recorded(site: Site, ai: openai.AsyncOpenAI) -> None:
    said = await ai.chat.completions.create(model="m", messages=HELLO)
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("hello there", "stop")
    assert said.usage is not None
    assert said.usage.completion_tokens == 2
    (started,) = await site.ksi.facts("completion:started")
    assert started.data["completion"] == said.id.removeprefix("chatcmpl-")


async def test_a_stream_says_its_usage_where_that_is_asked_for(ai: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "m", "messages": HELLO, "stream": True}
    plain = [chunk async for chunk in await ai.chat.completions.create(**asked)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == "hello there"
    assert [chunk.usage for chunk in plain if chunk.usage] == []
    options: Any = {"include_usage": True}
    counted = [chunk async for chunk in await ai.chat.completions.create(**asked, stream_options=options)]
    assert counted[-1].usage is not None
    assert counted[-1].choices == []


async def test_who_leaves_stops_the_model(site: Site, script: Script, ai: openai.AsyncOpenAI) -> None:
    async with await ai.chat.completions.create(model="held", messages=HELLO, stream=True) as stream:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    await site.until(lambda: script.provider.streams_open == 0)
    waiting = asyncio.ensure_future(ai.chat.completions.create(model="held", messages=HELLO))
    await site.until(lambda: script.provider.streams_open == 1)
    waiting.cancel()
    await site.until(lambda: script.provider.streams_open == 0)


async def test_a_tool_is_asked_for_and_told(ai: openai.AsyncOpenAI) -> None:
    first = (await ai.chat.completions.create(model="m", messages=HELLO, tools=TOOLS)).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "add", '{"a":2}')  # type: ignore[union-attr]
    said: Any = [*HELLO, first.message, {"role": "tool", "tool_call_id": "c1", "content": "two"}]
    second = await ai.chat.completions.create(model="m", messages=said, tools=TOOLS)
    assert second.choices[0].message.content == "it is two"
    streamed = [
        chunk.choices[0]
        async for chunk in await ai.chat.completions.create(model="m", messages=HELLO, tools=TOOLS, stream=True)
    ]
    (delta,) = [choice.delta.tool_calls for choice in streamed if choice.delta.tool_calls]
    assert delta[0].function is not None
    assert (delta[0].function.name, streamed[-1].finish_reason) == ("add", "tool_calls")


async def test_an_answer_follows_a_json_schema(ai: openai.AsyncOpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": "Sea", "type": "object"}}}
    said = await ai.chat.completions.create(model="m", messages=HELLO, response_format=form)
    assert said.choices[0].message.content == '{"schema":"Sea"}'


async def test_an_agent_answers_in_its_own_conversation(site: Site, ai: openai.AsyncOpenAI) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    said = await ai.chat.completions.create(model="agent:ada", messages=HELLO)
    assert said.choices[0].message.content == "hello there"
    stream = await ai.chat.completions.create(model="agent:ada", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello there"
    conversation = await site.ksi.request("conversation:get", {"conversation": "agent-ada"})
    assert len(conversation["messages"]) == 4
    with pytest.raises(openai.UnprocessableEntityError):
        await ai.chat.completions.create(model="agent:ada", messages=HELLO, tools=TOOLS)


async def test_errors_are_those_that_the_package_knows(site: Site, ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await ai.chat.completions.create(model="agent:nobody", messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        await ai.chat.completions.create(model="m", messages=[])
    with pytest.raises(openai.AuthenticationError):
        await ai.with_options(api_key="sk-foreign").chat.completions.create(model="m", messages=HELLO)
    await site.ksi.request("budget:set", {"scope": "all", "tokens": 5})
    with pytest.raises(openai.APIStatusError) as caught:
        await ai.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert caught.value.response.json()["error"]["code"] == "budget_exceeded"


async def test_anthropics_package_is_answered_whole_and_streamed(claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": "m", "max_tokens": 64, "messages": HELLO, "system": "be kind"}
    said = await claude.messages.create(**asked)
    assert said.content[0].model_dump()["text"] == "hello there"
    assert said.stop_reason == "end_turn"
    assert said.usage.output_tokens == 2
    async with claude.messages.stream(**asked) as stream:
        assert "".join([text async for text in stream.text_stream]) == "hello there"
        assert (await stream.get_final_message()).usage.output_tokens == 2
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(**{**asked, "model": "agent:nobody"})


async def test_anthropics_package_uses_tools(claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": "m", "max_tokens": 64, "tools": [{"name": "add", "input_schema": {"type": "object"}}]}
    async with claude.messages.stream(**asked, messages=HELLO) as stream:
        first = await stream.get_final_message()
    assert first.stop_reason == "tool_use"
    call: Any = first.content[-1]
    assert (call.name, call.input) == ("add", {"a": 2})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "two"}
    told: Any = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second: Any = await claude.messages.create(**asked, messages=told)
    assert second.content[0].text == "it is two"


async def test_bodies_count_among_what_the_daemon_holds(tmp_path: Path, script: Script) -> None:
    bounded = Limits(inbound_bytes_max=4_000)
    long: Any = [{"role": "user", "content": "say " + "word " * 1_000}]
    async with (
        serving(tmp_path, limits=bounded, plugins=plugins_with(script)) as site,
        openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.token, max_retries=0) as ai,
    ):
        holding = asyncio.ensure_future(ai.chat.completions.create(model="held", messages=long))
        await script.hold.reached.wait()
        with pytest.raises(openai.RateLimitError):
            await ai.chat.completions.create(model="m", messages=HELLO)
        script.hold.release()
        await holding
        await ai.chat.completions.create(model="m", messages=HELLO)
