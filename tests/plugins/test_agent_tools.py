"""Tools of agents: events asked for in mid-turn with the agent's own rights, once, over crashes and waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from ksi.core.errors import (
    NotFoundError,
    PermissionDeniedError,
    ProviderInvalidRequestError,
    UnknownEventError,
    ValidationError,
)
from ksi.core.events import fact
from ksi.core.ports import Done, Journal, Unit
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.permission import Permission
from ksi.plugins.state import State
from ksi.providers.base import (
    AnyChunk,
    Capabilities,
    CompletionRequest,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    require,
)
from ksi.providers.script import Answer, ScriptProvider
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts
from ksi.store.memory import InMemoryEventStore
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import harness, rest, script

pytestmark = pytest.mark.leakcheck
TURN = "01a00000-0000-7000-8000-000000000002"
GO = {"agent": "ada", "text": "Go."}


@fact("hammer:was_used")
class HammerWasUsed(msgspec.Struct, frozen=True):
    nail: str
    by: str


class Hammer(AsyncPlugin):
    name = "hammer"

    @event("hammer:use")
    async def use(self, nail: str, context: EventContext) -> str:
        """Drive a nail in."""
        context.append("hammer/one", HammerWasUsed(nail, context.principal))
        return f"{nail} is in"

    @event("hammer:throw")
    async def throw(self, context: EventContext) -> None:
        raise NotFoundError("hammer", "one")


def call(tool: str, arguments: str = "{}", index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index=index, id=f"call-{index}", name=tool, arguments=arguments)


NAIL = call("hammer__use", '{"nail":"steel"}')


def then(*answers: Answer) -> ScriptProvider:
    """Each answer to one step; what is asked for again is a request more."""
    return script(list(answers))


async def spawn(ksi: EventTestHarness, tools: Sequence[str] = ("hammer:use",), **more: Any) -> None:
    await ksi.request("agent:spawn", {"agent": "ada", "tools": list(tools), **more})


def results(request: CompletionRequest) -> list[ToolResultPart]:
    """What the tools gave, of the newest message."""
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResultPart)]


async def nails(ksi: EventTestHarness) -> list[str]:
    return [each.data["nail"] for each in await ksi.facts("hammer:was_used")]


# ── a turn ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_tool_is_called_in_the_agents_name_and_the_model_is_told_what_it_gave() -> None:
    provider = then(["Wait. ", NAIL], "It holds.")
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        stream = ksi.stream("agent:send_message", GO)
        assert await rest(stream) == "Wait. It holds."
        (used,) = await ksi.facts("hammer:was_used")
        (noted,) = await ksi.facts("agent:called_tool")
        (listed,) = (await ksi.request("agent:list"))["agents"]
    (tool,) = provider.requests[0].tools
    assert (tool.name, tool.description) == ("hammer__use", "Drive a nail in.")
    assert tool.parameters["properties"] == {"nail": {"type": "string"}}
    assert used.data["by"] == "agent:ada"
    assert results(provider.requests[1]) == [ToolResultPart(id="call-0", content='"steel is in"')]
    assert provider.requests[1].messages[-2].parts[1] == ToolCallPart(
        id="call-0", name="hammer__use", arguments={"nail": "steel"}
    )
    assert (noted.data["tool"], noted.data["is_error"], listed["tool_calls"]) == ("hammer__use", False, 1)
    assert stream.answer["usage"]["output_tokens"] == 4
    assert stream.answer["finish_reason"] == "stop"


async def test_the_conversation_holds_call_and_result_and_goes_on_behind_them() -> None:
    provider = then([NAIL], "In.", "Yes.")
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        await ksi.request("agent:send_message", GO)
        await ksi.request("agent:send_message", {"agent": "ada", "text": "Really?"})
    roles = [message.role for message in provider.requests[2].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


async def test_several_calls_of_one_step_are_made_in_order() -> None:
    both = [call("hammer__use", '{"nail":"a"}', 0), call("hammer__use", '{"nail":"b"}', 1)]
    provider = then(both, "Done.")
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        await ksi.request("agent:send_message", GO)
        assert await nails(ksi) == ["a", "b"]
    assert [part.id for part in results(provider.requests[1])] == ["call-0", "call-1"]


async def test_a_query_is_a_tool_too() -> None:
    provider = then([call("state__get", '{"key":"colour"}')], "Red.")
    async with harness(provider, more=(Agent, State)) as ksi:
        await ksi.request("state:set", {"key": "colour", "value": "red"})
        await spawn(ksi, ["state:get"])
        await ksi.request("agent:send_message", GO)
    assert '"value":"red"' in results(provider.requests[1])[0].content


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (call("hammer__throw"), "not_found"),
        (call("hammer__use"), "validation_error"),
        (call("saw__use"), "unknown_event"),
        (call("state__set", '{"key":"a","value":1}'), "unknown_event"),
    ],
)
async def test_an_error_of_a_tool_is_its_result_and_the_turn_goes_on(asked: ToolCallDelta, code: str) -> None:
    provider = then([asked], "Sorry.")
    async with harness(provider, more=(Agent, Hammer, State)) as ksi:
        await spawn(ksi, ["hammer:use", "hammer:throw"])
        turn = await ksi.request("agent:send_message", GO)
        assert (await ksi.facts("state:*"), turn["text"]) == ([], "Sorry.")
    (result,) = results(provider.requests[1])
    assert (result.is_error, result.content.partition(":")[0]) == (True, code)


async def test_steps_are_bounded_and_the_next_turn_can_go_on() -> None:
    provider = then([NAIL], [NAIL], "Enough.")
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi, max_steps=2)
        turn = await ksi.request("agent:send_message", GO)
        assert turn["finish_reason"] == "max_steps"
        assert await nails(ksi) == ["steel"]
        await ksi.request("agent:send_message", GO)
    last = provider.requests[2].messages
    assert [message.role for message in last][-3:] == ["assistant", "tool", "user"]
    (lost,) = last[-2].parts
    assert isinstance(lost, ToolResultPart)
    assert lost.is_error


async def test_a_large_result_is_cut_for_the_model() -> None:
    provider = then([call("state__get", '{"key":"long"}')], "Long.")
    async with harness(provider, more=(Agent, State)) as ksi:
        await ksi.request("state:set", {"key": "long", "value": "x" * 100_000})
        await spawn(ksi, ["state:get"])
        await ksi.request("agent:send_message", GO)
    (result,) = results(provider.requests[1])
    assert len(result.content) < 33_000
    assert "cut" in result.content


async def test_turns_of_one_agent_do_not_get_between_a_call_and_its_result() -> None:
    def answer(request: CompletionRequest) -> Answer:
        return "Done." if request.messages[-1].role == "tool" else [NAIL]

    provider = script(answer)
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        await asyncio.gather(*(ksi.request("agent:send_message", GO) for _ in range(5)))
        found = await ksi.request("conversation:get", {"conversation": "agent-ada"})
    assert [said["role"] for said in found["messages"]] == ["user", "assistant", "tool", "assistant"] * 5


async def test_an_agent_that_speaks_to_itself_in_mid_turn_is_refused() -> None:
    provider = then([call("agent__send_message", '{"agent":"ada","text":"Hm?"}')], "Alone.")
    async with harness(provider, more=(Agent,)) as ksi:
        await spawn(ksi, ["agent:send_message"])
        await ksi.request("agent:send_message", GO)
    (result,) = results(provider.requests[1])
    assert (result.is_error, result.content.partition(":")[0]) == (True, "conflict")


# ── a provider that can not call tools ───────────────────────────────────────────────────────────────────────────────
class Plain(ScriptProvider):
    capabilities = Capabilities(structured=True)


async def test_where_the_provider_knows_no_tools_its_answer_has_a_form_for_them() -> None:
    provider = Plain([['{"tool":"hammer__use",', '"arguments":{"nail":"steel"}}'], '{"answer":"It holds."}'])
    async with harness(provider, more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        turn = await ksi.request("agent:send_message", GO)
        assert (turn["text"], await nails(ksi)) == ("It holds.", ["steel"])
        found = await ksi.request("conversation:get", {"conversation": "agent-ada"})
    kinds = [part["type"] for said in found["messages"] for part in said["parts"]]
    assert kinds == ["text", "tool_call", "tool_result", "text"]
    first, second = provider.requests
    assert first.tools == ()
    assert first.response_schema is not None
    assert first.response_schema["anyOf"][0]["properties"]["tool"] == {"const": "hammer__use"}
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "user"]


async def test_an_answer_that_breaks_the_form_is_the_text_that_it_is() -> None:
    async with harness(Plain(["Nails? "]), more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        assert (await ksi.request("agent:send_message", GO))["text"] == "Nails? "


async def test_a_provider_that_can_do_neither_refuses_the_turn() -> None:
    class Poor(ScriptProvider):
        capabilities = Capabilities()

        def stream(
            self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
        ) -> AsyncGenerator[AnyChunk, None]:
            require(request, self.capabilities, provider=self.name)
            return super().stream(request, timeouts=timeouts)

    async with harness(Poor(["Hm."]), more=(Agent, Hammer)) as ksi:
        await spawn(ksi)
        with pytest.raises(ProviderInvalidRequestError):
            await ksi.request("agent:send_message", GO)


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Gated(AsyncPlugin):
    """A tool that stands still until it is let go, once it has said that it was reached."""

    name = "gated"
    reached = asyncio.Event()
    open = asyncio.Event()

    @event("gated:use", durability="before", on_crash="rerun")
    async def use(self, context: EventContext) -> str:
        context.append("hammer/one", HammerWasUsed("gated", context.principal))
        await context.commit()
        Gated.reached.set()
        await Gated.open.wait()
        return "through"


async def test_a_crash_while_a_tool_runs_pays_for_no_completion_again() -> None:
    Gated.reached, Gated.open = asyncio.Event(), asyncio.Event()
    provider = then(["First. ", NAIL], [call("gated__use")], "Last.")
    async with harness(provider, more=(Agent, Hammer, Gated)) as ksi:
        await spawn(ksi, ["hammer:use", "gated:use"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        await Gated.reached.wait()
        Gated.reached.clear()
        await ksi.crash()
        await Gated.reached.wait()
        Gated.open.set()
        turn = await ksi.request("agent:send_message", GO, event_id=TURN)
        assert await nails(ksi) == ["steel", "gated"]
        assert len(await ksi.facts("agent:called_tool")) == 2
    assert turn["text"] == "First. Last."
    assert len(provider.requests) == 3
    assert turn["usage"]["output_tokens"] == 4


# ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def grant(ksi: EventTestHarness, **rights: list[str]) -> None:
    await ksi.request("permission:grant", {"principal": "agent:ada", **rights})


async def waiting(ksi: EventTestHarness) -> dict[str, Any]:
    """The request that waits, once there is one."""
    async with asyncio.timeout(10):
        while True:
            for each in (await ksi.request("permission:pending"))["requests"]:
                return dict(each)
            await asyncio.sleep(0)


async def test_tools_that_can_not_be_given_are_refused() -> None:
    async with harness(script(), more=(Permission, Agent, Hammer)) as ksi:
        with pytest.raises(UnknownEventError):
            await spawn(ksi, ["hammer:lend"])
        with pytest.raises(ValidationError):
            await spawn(ksi, ["hammer:use", "hammer:use"])
        await ksi.request("permission:grant", {"principal": "tester", "ask": ["hammer:use"], "deny": ["hammer:throw"]})
        for tool in ("hammer:use", "hammer:throw"):
            with pytest.raises(PermissionDeniedError) as caught:
                await spawn(ksi, [tool])
            assert caught.value.principal == "tester"
        await grant(ksi, ask=["hammer:use"])
        await spawn(ksi)


async def test_a_denied_call_is_recorded_and_told_to_the_model() -> None:
    provider = then([NAIL], "I may not.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, deny=["hammer:*"])
        turn = await ksi.request("agent:send_message", GO)
        (denied,) = await ksi.facts("permission:denied")
        assert (await nails(ksi), turn["text"]) == ([], "I may not.")
    assert (denied.data["principal"], denied.data["event"]) == ("agent:ada", "hammer:use")
    assert results(provider.requests[1])[0].content.startswith("permission_denied")


async def test_what_was_denied_is_denied_again_after_a_crash_though_it_is_allowed_by_now() -> None:
    Gated.reached, Gated.open = asyncio.Event(), asyncio.Event()
    provider = then([NAIL], [call("gated__use")], "Over.")
    async with harness(provider, more=(Permission, Agent, Hammer, Gated)) as ksi:
        await spawn(ksi, ["hammer:use", "gated:use"])
        await grant(ksi, deny=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        await Gated.reached.wait()
        await ksi.request("permission:revoke", {"principal": "agent:ada"})
        Gated.open.set()
        await ksi.crash()
        turn = await ksi.request("agent:send_message", GO, event_id=TURN)
        assert await nails(ksi) == ["gated"]
    assert (turn["text"], len(provider.requests)) == ("Over.", 3)


async def test_an_ask_in_mid_turn_over_crashes_and_restarts_approved_once_runs_once() -> None:
    provider = then(["Let me ask. ", NAIL], "It holds.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        first = await waiting(ksi)
        await ksi.crash()
        second = await waiting(ksi)
        await ksi.restart()
        third = await waiting(ksi)
        assert first["event_id"] == second["event_id"] == third["event_id"]
        assert (third["principal"], third["event"]) == ("agent:ada", "hammer:use")
        assert await nails(ksi) == []
        turn = asyncio.ensure_future(ksi.request("agent:send_message", GO, event_id=TURN))
        await ksi.request("permission:approve", {"id": third["event_id"]})
        assert (await turn)["text"] == "Let me ask. It holds."
        assert await nails(ksi) == ["steel"]
        (answered,) = await ksi.facts("agent:answered")
        with pytest.raises(NotFoundError):
            await ksi.request("permission:approve", {"id": third["event_id"]})
    assert answered.data["usage"] == (await turn)["usage"]
    assert len(provider.requests) == 2


async def test_an_ask_outlasts_any_number_of_restarts() -> None:
    provider = then([NAIL], "It holds.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        for end in (ksi.restart, ksi.crash, ksi.restart, ksi.restart, ksi.crash):
            await waiting(ksi)
            await end()
        await ksi.request("permission:approve", {"id": (await waiting(ksi))["event_id"]})
        assert (await ksi.request("agent:send_message", GO, event_id=TURN))["text"] == "It holds."
        assert await nails(ksi) == ["steel"]


@pytest.mark.parametrize("crashes", [False, True])
async def test_an_ask_that_is_denied_ends_in_its_error_and_the_turn_goes_on(crashes: bool) -> None:
    provider = then([NAIL], "Then not.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        asked = await waiting(ksi)
        if crashes:
            await ksi.crash()
            asked = await waiting(ksi)
        await ksi.request("permission:deny", {"id": asked["event_id"], "why": "no nails today"})
        turn = await ksi.request("agent:send_message", GO, event_id=TURN)
        assert (turn["text"], await nails(ksi)) == ("Then not.", [])
    (result,) = results(provider.requests[1])
    assert result.is_error
    assert "no nails today" in result.content


@pytest.mark.parametrize("crashes", [False, True])
async def test_an_ask_whose_right_is_taken_ends_in_its_error_and_the_turn_goes_on(crashes: bool) -> None:
    provider = then([NAIL], "Then not.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        await waiting(ksi)
        if crashes:
            await ksi.crash()
            await waiting(ksi)
        await grant(ksi, deny=["hammer:*"])
        turn = await ksi.request("agent:send_message", GO, event_id=TURN)
        assert (turn["text"], await nails(ksi)) == ("Then not.", [])
        (decided,) = await ksi.facts("permission:was_decided")
    assert (decided.data["approved"], decided.data["why"]) == (False, "its right was taken")
    assert results(provider.requests[1])[0].content.endswith("rule grant: deny hammer:*")


@pytest.mark.parametrize("word", ["approve", "deny"])
@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_a_word_that_comes_while_the_turn_comes_back_is_heard(word: str, steps: int) -> None:
    provider = then([NAIL], "So be it.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        ksi.stream("agent:send_message", GO, event_id=TURN)
        asked = await waiting(ksi)
        await ksi.crash()
        for _ in range(steps):
            await asyncio.sleep(0)
        await ksi.request(f"permission:{word}", {"id": asked["event_id"]})
        assert (await ksi.request("agent:send_message", GO, event_id=TURN))["text"] == "So be it."
        assert await nails(ksi) == (["steel"] if word == "approve" else [])


class LateLog:
    """A log that takes its time with the end of a tool's request."""

    def __init__(self, log: Journal) -> None:
        self._log = log

    def write(self, unit: Unit, done: Done) -> None:
        is_end = unit.outcome is not None and unit.origin.name == "hammer:use"
        asyncio.get_running_loop().call_later(0.05 if is_end else 0, self._log.write, unit, done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


async def test_a_denial_whose_commit_is_late_is_heard_by_the_turn_that_came_back_meanwhile() -> None:
    async with InMemoryEventStore() as store:
        log = cast(Journal, LateLog(store))
        async with harness(then([NAIL], "Then not."), more=(Permission, Agent, Hammer), log=log) as ksi:
            await spawn(ksi)
            await grant(ksi, ask=["hammer:*"])
            ksi.stream("agent:send_message", GO, event_id=TURN)
            asked = await waiting(ksi)
            await ksi.crash()
            await ksi.request("permission:deny", {"id": asked["event_id"]})
            turn = await ksi.request("agent:send_message", GO, event_id=TURN)
    assert turn["text"] == "Then not."


@pytest.mark.virtual
async def test_an_ask_that_nobody_answers_in_time_ends_in_a_timeout() -> None:
    provider = then([NAIL], "Nobody came.")
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi, ask_timeout=600)
        await grant(ksi, ask=["hammer:*"])
        turn = await ksi.request("agent:send_message", GO, event_id=TURN)
        assert (await ksi.request("permission:pending"))["requests"] == []
        assert (turn["text"], await nails(ksi)) == ("Nobody came.", [])
    assert results(provider.requests[1])[0].content.startswith("timeout")


async def test_a_turn_that_is_cancelled_while_its_tool_waits_leaves_nothing_to_approve() -> None:
    provider = then([NAIL])
    async with harness(provider, more=(Permission, Agent, Hammer)) as ksi:
        await spawn(ksi)
        await grant(ksi, ask=["hammer:*"])
        stream = ksi.stream("agent:send_message", GO, event_id=TURN)
        await waiting(ksi)
        ksi.kernel.router.running[UUID(TURN).bytes].abort()
        with pytest.raises(Exception, match="cancelled"):
            await rest(stream)
        assert (await ksi.request("permission:pending"))["requests"] == []
        assert await nails(ksi) == []
