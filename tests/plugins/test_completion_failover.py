"""A provider that can not answer: the next of the chain does, or it is asked again when it said so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from ksi.core.errors import (
    BudgetExceededError,
    KSIError,
    ModelUnavailableError,
    ProviderAuthError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.plugins.agent import Agent
from ksi.plugins.budget import Budget
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.model import Model
from ksi.providers.base import ToolCallDelta
from ksi.providers.script import Answer, ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import replayed
from tests.plugins.scripted import harness, rest, take
from tests.plugins.test_replay import GoneDesk

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]

LIMITED = RateLimitedError("slow down", provider="first")
HELLO = {"prompt": "Hello"}


class Named(ScriptProvider):
    """A scripted provider under a name of its own."""

    def __init__(self, name: str, *answers: Answer) -> None:
        super().__init__(answers)
        self.name = name


def later(seconds: float) -> KSIError:
    return RateLimitedError("slow down", provider="first", retry_after=seconds)


def pair(*answers: Answer, failover: tuple[str, ...] = ("second",), more: Any = ()) -> tuple[EventTestHarness, Named]:
    """``first`` gives ``answers``, ``second`` says that it does."""
    first, second = Named("first", *answers), Named("second", "I do", "I do", "I do")
    return harness(first, second, failover=failover, more=more), first


async def data_of(ksi: EventTestHarness, fact: str) -> list[Mapping[str, Any]]:
    return [event.data for event in await ksi.facts(fact)]


@pytest.mark.parametrize(
    "error",
    [
        LIMITED,
        ProviderOverloadedError("full", provider="first"),
        ProviderTimeoutError("silent", provider="first", seconds=1),
        StreamInterruptedError("hung up", provider="first"),
        ModelUnavailableError("gone", provider="first"),
    ],
    ids=lambda error: error.code,
)
async def test_who_can_not_answer_is_followed_by_the_next_and_the_log_says_so(error: KSIError) -> None:
    ksi, _ = pair([error])
    async with ksi:
        answered = await ksi.request("completion:create", HELLO)
        (failed_over,) = await data_of(ksi, "completion:failed_over")
        (shown,) = (await ksi.request("completion:status"))["completions"]
        again = await replayed(ksi.log, GoneDesk, Conversation, Completion)
    assert (answered["text"], answered["provider"], shown["provider"]) == ("I do", "second", "second")
    assert (failed_over["refused_by"], failed_over["reason"], failed_over["provider"]) == (
        "first",
        error.code,
        "second",
    )
    assert again.effects == 2


async def test_half_a_tool_call_is_not_said_yet_and_none_of_it_is_left() -> None:
    ksi, _ = pair([ToolCallDelta(index=0, id="c", name="look"), StreamInterruptedError("lost", provider="first")])
    async with ksi:
        answered = await ksi.request("completion:create", HELLO)
    assert (answered["text"], answered["tool_calls"]) == ("I do", [])


async def test_behind_the_first_token_nobody_takes_over_and_the_error_has_what_there_is() -> None:
    ksi, _ = pair(["Once", " more", StreamInterruptedError("lost", provider="first")])
    async with ksi:
        stream = ksi.stream("completion:create", HELLO)
        assert await take(stream, 2) == "Once more"
        with pytest.raises(StreamInterruptedError) as caught:
            await rest(stream)
        (ended,) = await data_of(ksi, "completion:interrupted")
    assert caught.value.partial["text"] == "Once more"
    assert caught.value.partial["usage"] == ended["usage"] == {
        "input_tokens": 2, "output_tokens": 2, "estimated": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "error"), [({"provider": "first"}, LIMITED), ({}, ProviderAuthError("no", provider="first"))]
)
async def test_who_is_named_and_who_is_set_up_wrongly_is_not_replaced(asked: dict[str, str], error: KSIError) -> None:
    ksi, _ = pair([error])
    async with ksi:
        with pytest.raises(type(error)):
            await ksi.request("completion:create", HELLO | asked)
        assert await data_of(ksi, "completion:failed_over") == []


async def test_a_request_brings_a_chain_of_its_own() -> None:
    ksi, _ = pair([LIMITED], failover=())
    async with ksi:
        asked = {**HELLO, "provider": "first", "failover": ["second/script"]}
        assert (await ksi.request("completion:create", asked))["provider"] == "second"


async def test_an_agent_brings_a_chain_of_its_own() -> None:
    ksi, _ = pair([LIMITED], failover=(), more=(Agent,))
    async with ksi:
        await ksi.request("agent:spawn", {"agent": "ada", "provider": "first", "failover": ["second"]})
        turn = await ksi.request("agent:send_message", {"agent": "ada", "text": "Hello"})
    assert (turn["text"], turn["provider"]) == ("I do", "second")


async def test_the_list_of_providers_says_who_rests_who_is_next_and_what_they_took() -> None:
    ksi, _ = pair([later(20.0)], more=(Model,))
    async with ksi:
        await ksi.request("completion:create", HELLO)
        first, second = (await ksi.request("provider:list"))["providers"]
    assert (first["is_default"], first["rests"], first["output_tokens"]) == (True, 20.0, 0)
    assert (second["failover"], second["models"], second["output_tokens"]) == (1, ["script"], 2)


async def test_where_nobody_is_left_the_last_word_is_the_error() -> None:
    first, second = Named("first", [LIMITED]), Named("second", [ProviderOverloadedError("full", provider="second")])
    async with harness(first, second, failover=("second",)) as ksi:
        with pytest.raises(ProviderOverloadedError):
            await ksi.request("completion:create", HELLO)
        (ended,) = await data_of(ksi, "completion:interrupted")
    assert (ended["reason"], ended["usage"]) == (
        "provider_overloaded",
        {"input_tokens": 0, "output_tokens": 0, "estimated": False},
    )


async def test_who_says_when_to_come_back_is_asked_again_then_and_not_before() -> None:
    ksi, first = pair([later(2.0)], "Now", "And now", failover=())
    async with ksi:
        began = asyncio.get_running_loop().time()
        one = asyncio.ensure_future(ksi.request("completion:create", HELLO))
        await asyncio.sleep(0.1)  # of virtual time
        other = await ksi.request("completion:create", HELLO)
        assert {(await one)["text"], other["text"]} == {"Now", "And now"}
        assert asyncio.get_running_loop().time() - began >= 2.0
    assert len(first.requests) == 3


async def test_who_wants_to_rest_for_long_is_not_waited_for_nor_asked() -> None:
    ksi, first = pair([later(100.0)], "Now", failover=())
    async with ksi:
        with pytest.raises(RateLimitedError):
            await ksi.request("completion:create", HELLO)
        with pytest.raises(RateLimitedError) as caught:
            await ksi.request("completion:create", HELLO)
        assert caught.value.retry_after == pytest.approx(100.0, abs=1.0)
        assert len(first.requests) == 1
        await asyncio.sleep(100.0)
        assert (await ksi.request("completion:create", HELLO))["text"] == "Now"


async def test_who_rests_is_passed_over_until_it_has_rested() -> None:
    ksi, first = pair([later(20.0)], "Now")
    async with ksi:
        said = [(await ksi.request("completion:create", HELLO))["text"] for _ in range(2)]
        asked = len(first.requests)
        await asyncio.sleep(20.0)
        said.append((await ksi.request("completion:create", HELLO))["text"])
    assert (said, asked) == (["I do", "I do", "Now"], 1)


async def test_who_says_again_and_again_to_come_back_soon_is_waited_for_no_longer_than_once_for_all() -> None:
    first = Named("first", *[[later(0.0)]] * 100)
    async with harness(first) as ksi:
        with pytest.raises(RateLimitedError):
            await ksi.request("completion:create", HELLO)
    assert len(first.requests) == 61  # half a second each, thirty at most


async def test_a_cancel_reaches_one_that_waits_for_its_provider_to_have_rested() -> None:
    ksi, _ = pair([later(20.0)], failover=())
    async with ksi:
        stream = ksi.stream("completion:create", HELLO)
        await asyncio.sleep(0.1)  # of virtual time
        stopped = await ksi.request("completion:cancel", {"run": "last"})
        with pytest.raises(KSIError):
            await rest(stream)
    assert stopped["status"] == "cancelled"


async def test_a_provider_that_refuses_costs_nothing_and_the_next_must_fit_the_budget_too() -> None:
    ksi, _ = pair([LIMITED], [LIMITED], more=(Budget,))
    async with ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": 1_000})
        await ksi.request("completion:create", {**HELLO, "max_tokens": 900})
        (all_,) = (await ksi.request("budget:list"))["budgets"]
        assert (all_["tokens_spent"], all_["tokens_held"]) == (4, 0)
        await ksi.request("budget:set", {"scope": "provider:second", "tokens": 1})
        with pytest.raises(BudgetExceededError):
            await ksi.request("completion:create", HELLO)
        (ended,) = await data_of(ksi, "completion:interrupted")
        assert ended["reason"] == "budget_exceeded"
        held = [each["tokens_held"] for each in (await ksi.request("budget:list"))["budgets"]]
    assert held == [0, 0]
