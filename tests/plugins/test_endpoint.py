"""KSI as a provider, asked by the packages of OpenAI and Anthropic over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from ksi.codegen.tools import tool_name
from ksi.core import canonical
from ksi.core.errors import StreamInterruptedError, ValidationError
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.budget import Budget
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.endpoint import Endpoint, parts
from ksi.plugins.permission import Permission
from ksi.providers.base import CompletionRequest, TextPart, ToolCallDelta, ToolResultPart
from ksi.providers.desk import Desk, Offer
from ksi.providers.script import Answer, Hold, ScriptProvider
from ksi.transport import lapsing
from ksi.transport.budget import Limits
from tests.transport.http.site import Site, serving

HELLO: Any = [{"role": "user", "content": "say hello there"}]
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


FORM: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": "Sea", "type": "object"}}}


def answer(request: CompletionRequest) -> Answer:
    """Says what it is told; asks for its tool first, where it has one."""
    last = request.messages[-1].parts[-1]
    if request.model == "both" and isinstance(last, TextPart):
        own = ToolCallDelta(index=0, id="c0", name=tool_name("agent:list"), arguments="{}")
        return [own, ToolCallDelta(index=1, id="c1", name="add", arguments="{}")]
    if isinstance(last, TextPart) and last.text == "break off":
        return ["so", StreamInterruptedError("lost", provider="script")]
    if request.response_schema is not None:
        return canonical.encode({"schema": request.response_schema["title"]}).decode()
    if isinstance(last, ToolResultPart):
        return f"it is {last.content}"
    if request.tools:
        return ["let me see", ToolCallDelta(index=0, id="c1", name="add"), ToolCallDelta(index=0, arguments='{"a":2}')]
    assert isinstance(last, TextPart)
    return last.text.removeprefix("say ")


MODELS = ("m", "held", "both")


class Script:
    """What stands behind the endpoint."""

    def __init__(self) -> None:
        self.hold = Hold(at=1)
        self.provider = ScriptProvider(answer, before_token=self._before, models=MODELS)

    async def _before(self, index: int) -> None:
        if self.provider.requests[-1].model == "held":
            await self.hold(index)


@pytest.fixture
def script() -> Script:
    return Script()


def plugins_with(script: Script) -> tuple[type[AsyncPlugin], ...]:
    """All that an answer needs."""
    offer = Offer(name="script", make=lambda: script.provider, models=MODELS)

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
    assert [model.id async for model in ai.models.list()] == [*MODELS, "agent:ada"]
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


async def test_a_stream_ends_with_its_token(
    site: Site, script: Script, ai: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapsing, "CHECK_EVERY", 0.01)
    async with await ai.chat.completions.create(model="held", messages=HELLO, stream=True) as stream:
        said = [await anext(stream), await anext(stream)]
        site.tokens.revoke(site.tokens.verify(site.token).token_id)
        with pytest.raises(openai.APIError) as caught:
            said += [chunk async for chunk in stream]
    assert (caught.value.code, len(said)) == ("unauthorized", 2)
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
    said = await ai.chat.completions.create(model="m", messages=HELLO, response_format=FORM)
    assert said.choices[0].message.content == '{"schema":"Sea"}'


async def test_an_agent_answers_in_its_own_conversation(site: Site, ai: openai.AsyncOpenAI) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    said = await ai.chat.completions.create(model="agent:ada", messages=HELLO)
    assert said.choices[0].message.content == "hello there"
    stream = await ai.chat.completions.create(model="agent:ada", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello there"
    conversation = await site.ksi.request("conversation:get", {"conversation": "agent-ada"})
    assert len(conversation["messages"]) == 4


async def test_an_agent_asks_for_its_clients_tool_and_goes_on_with_what_that_gave(
    site: Site, ai: openai.AsyncOpenAI
) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    asked: Any = {"model": "agent:ada", "tools": TOOLS}
    stream = await ai.chat.completions.create(**asked, messages=HELLO, stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    (calls,) = [chunk.delta.tool_calls for chunk in chunks if chunk.delta.tool_calls]
    assert (calls[0].id, chunks[-1].finish_reason) == ("c1", "tool_calls")
    result: Any = {"role": "tool", "tool_call_id": "c1", "content": "two"}
    second = await ai.chat.completions.create(**asked, messages=[*HELLO, result])
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("it is two", "stop")
    with pytest.raises(openai.ConflictError):
        await ai.chat.completions.create(**asked, messages=[result])
    conversation = await site.ksi.request("conversation:get", {"conversation": "agent-ada"})
    assert [said["role"] for said in conversation["messages"]] == ["user", "assistant", "tool", "assistant"]


async def test_an_agent_keeps_its_own_tools_beside_its_clients(
    site: Site, script: Script, ai: openai.AsyncOpenAI
) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "both", "tools": ["agent:list"]})
    asked: Any = {"model": "agent:ada", "tools": TOOLS}
    first = (await ai.chat.completions.create(**asked, messages=HELLO)).choices[0].message
    assert [call.id for call in first.tool_calls or ()] == ["c1"]
    result: Any = {"role": "tool", "tool_call_id": "c1", "content": "two"}
    second = await ai.chat.completions.create(**asked, messages=[*HELLO, first, result])
    assert second.choices[0].message.content == "it is two"
    told = [part for said in script.provider.requests[-1].messages for part in said.parts]
    assert [part.id for part in told if isinstance(part, ToolResultPart)] == ["c0", "c1"]
    own: Any = [{"type": "function", "function": {"name": tool_name("agent:list"), "parameters": {}}}]
    with pytest.raises(openai.BadRequestError):
        await ai.chat.completions.create(model="agent:ada", tools=own, messages=HELLO)


async def test_an_agents_answer_follows_a_json_schema(site: Site, ai: openai.AsyncOpenAI) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    said = await ai.chat.completions.create(model="agent:ada", messages=HELLO, response_format=FORM)
    assert said.choices[0].message.content == '{"schema":"Sea"}'


async def test_who_leaves_an_agent_stops_its_turn(site: Site, script: Script, ai: openai.AsyncOpenAI) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "held"})
    async with await ai.chat.completions.create(model="agent:ada", messages=HELLO, stream=True) as stream:
        await anext(aiter(stream))
        await script.hold.reached.wait()
    await site.until(lambda: script.provider.streams_open == 0)


# ── /v1/responses ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("model", ["m", "agent:ada"])
async def test_responses_are_answered_whole_and_streamed(site: Site, ai: openai.AsyncOpenAI, model: str) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    said = await ai.responses.create(model=model, input="say hello there", instructions="be kind")
    assert (said.output_text, said.status) == ("hello there", "completed")
    assert said.usage is not None
    assert said.usage.output_tokens == 2
    async with ai.responses.stream(model=model, input=HELLO) as stream:
        events = [event async for event in stream]
        last = await stream.get_final_response()
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hello there"
    assert (last.output_text, events[-1].type) == ("hello there", "response.completed")


async def test_responses_end_where_their_bound_is_and_follow_a_schema(ai: openai.AsyncOpenAI) -> None:
    cut = await ai.responses.create(model="m", input="say hello there", max_output_tokens=1)
    assert (cut.output_text, cut.status) == ("hello", "incomplete")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"title": "Sea", "type": "object"}}}
    assert (await ai.responses.create(model="m", input=HELLO, text=form)).output_text == '{"schema":"Sea"}'


@pytest.mark.parametrize("model", ["m", "agent:ada"])
async def test_responses_ask_for_tools_and_are_told(site: Site, ai: openai.AsyncOpenAI, model: str) -> None:
    await site.ksi.request("agent:spawn", {"agent": "ada", "model": "m"})
    tools: Any = [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}]
    async with ai.responses.stream(model=model, input=HELLO, tools=tools) as stream:
        first = await stream.get_final_response()
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.call_id, call.name, call.arguments) == ("c1", "add", '{"a":2}')
    result = {"type": "function_call_output", "call_id": "c1", "output": "two"}
    told: Any = [*HELLO, *(item.model_dump() for item in first.output), result]
    second = await ai.responses.create(model=model, input=told, tools=tools)
    assert second.output_text == "it is two"


async def test_responses_that_want_what_is_not_here_are_refused(ai: openai.AsyncOpenAI) -> None:
    wrong: list[Any] = [{"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}, {"background": True}]
    for more in wrong:
        with pytest.raises(openai.UnprocessableEntityError):
            await ai.responses.create(model="m", input=HELLO, **more)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(model="agent:nobody", input=HELLO)


async def test_an_error_in_the_middle_of_a_response_is_an_event(ai: openai.AsyncOpenAI) -> None:
    events = [event async for event in await ai.responses.create(model="m", input="break off", stream=True)]
    last = events[-1]
    assert last.type == "error"
    assert (last.code, [event.type for event in events].count("response.output_text.delta")) == (
        "stream_interrupted",
        1,
    )


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


@pytest.mark.parametrize(("said", "meant"), [("", {}), ("{}", {}), ('{"a":2}', {"a": 2})])
def test_a_call_of_a_tool_that_takes_nothing_may_be_said_with_nothing(said: str, meant: dict[str, int]) -> None:
    assert parts.arguments(said) == meant


@pytest.mark.parametrize("said", ["{", "[1]", "null"])
def test_arguments_that_are_no_object_are_refused(said: str) -> None:
    with pytest.raises(ValidationError):
        parts.arguments(said)
