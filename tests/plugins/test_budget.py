"""Budgets: what might go over a cap is not called, and what was not used is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import BudgetExceededError, NotFoundError, ValidationError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.budget import Budget
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.permission import Permission
from ksi.providers.base import AnyChunk, CompletionRequest, Finished, Message, TextPart, Usage
from ksi.providers.budgets import input_tokens_max, scopes_of
from ksi.providers.prices import AS_OF, Price, price_of
from ksi.providers.script import ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import replayed
from tests.plugins.scripted import Gate, harness, script, take
from tests.plugins.test_agent_tools import GO, call, spawn, then
from tests.plugins.test_replay import GoneDesk

ANSWER = "one two three four five"


class Answering:
    """Gives the same answer, and counts how often it was asked."""

    calls = 0

    def __call__(self, request: CompletionRequest) -> str:
        self.calls += 1
        return ANSWER


@pytest.fixture
def answering() -> Answering:
    return Answering()


@pytest.fixture
async def ksi(answering: Answering) -> AsyncIterator[EventTestHarness]:
    async with harness(script(answering), more=(Agent, Budget)) as ksi:
        yield ksi


async def account(ksi: EventTestHarness, scope: str) -> dict[str, Any]:
    (found,) = [each for each in (await ksi.request("budget:list"))["budgets"] if each["scope"] == scope]
    return dict(found)


async def test_a_call_that_might_go_over_is_not_made_and_the_refusal_is_an_event(
    ksi: EventTestHarness, answering: Answering
) -> None:
    await ksi.request("budget:set", {"scope": "all", "tokens": 60})
    with pytest.raises(BudgetExceededError) as caught:
        await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 64})
    assert (caught.value.scope, caught.value.unit, caught.value.left) == ("all", "tokens", 60)
    assert answering.calls == 0
    (exceeded,) = await ksi.facts("budget:was_exceeded")
    assert exceeded.data["left"] == 60
    assert "model is not called" in str(caught.value)


async def test_what_was_not_used_is_given_back(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "tokens": 1000})
    answer = await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 64})
    used = await account(ksi, "all")
    assert used["tokens_held"] == 0
    assert 0 < used["tokens_spent"] <= input_tokens_max(_asked("Hello")) + answer["usage"]["output_tokens"]


async def test_where_nobody_bounds_a_call_it_is_bounded_by_what_is_left(ksi: EventTestHarness) -> None:
    room = input_tokens_max(_asked("Hello"))
    await ksi.request("budget:set", {"scope": "all", "tokens": room + 3})
    answer = await ksi.request("completion:create", {"prompt": "Hello"})
    assert (answer["text"], answer["finish_reason"]) == ("one two three", "length")
    await ksi.request("agent:spawn", {"agent": "ada"})
    await ksi.request("budget:set", {"scope": "agent:ada", "tokens": room + 2})
    await ksi.request("budget:remove", {"scope": "all"})
    turn = await ksi.request("agent:send_message", {"agent": "ada", "text": "Hello"})
    assert (turn["text"], turn["finish_reason"]) == ("one two", "length")


async def test_all_scopes_of_a_call_are_taken_in_one_step(ksi: EventTestHarness, answering: Answering) -> None:
    await ksi.request("agent:spawn", {"agent": "ada"})
    for scope, tokens in (("agent:ada", 10_000), ("provider:script", 10_000), ("conversation:agent-ada", 5)):
        await ksi.request("budget:set", {"scope": scope, "tokens": tokens})
    with pytest.raises(BudgetExceededError):
        await ksi.request("agent:send_message", {"agent": "ada", "text": "Hello"})
    assert [each["tokens_held"] for each in (await ksi.request("budget:list"))["budgets"]] == [0, 0, 0]
    assert answering.calls == 0
    await ksi.request("budget:set", {"scope": "conversation:agent-ada", "tokens": 10_000})
    await ksi.request("agent:send_message", {"agent": "ada", "text": "Hello"})
    spent = {each["tokens_spent"] for each in (await ksi.request("budget:list"))["budgets"]}
    assert len(spent) == 1
    assert spent != {0}


async def test_what_a_crash_cut_off_counts_as_spent() -> None:
    gate = Gate(passing=1)
    async with harness(script(lambda _: ANSWER, gate=gate), more=(Budget,)) as ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": 1000})
        stream = ksi.stream("completion:create", {"prompt": "Hello", "max_tokens": 64})
        await take(stream, 1)
        await gate.reached.wait()
        await ksi.crash()
        gate.open()
        held = (await account(ksi, "all"))["tokens_held"]
        assert held == input_tokens_max(_asked("Hello")) + 64
        with pytest.raises(BudgetExceededError):
            await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 1000 - held})


async def test_many_at_once_do_not_take_more_than_there_is(ksi: EventTestHarness, answering: Answering) -> None:
    one = input_tokens_max(_asked("Hello")) + 10
    await ksi.request("budget:set", {"scope": "all", "tokens": 3 * one})
    asked = [ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 10}) for _ in range(40)]
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(end, dict | BudgetExceededError) for end in ends)
    used = await account(ksi, "all")
    assert used["tokens_spent"] + used["tokens_held"] <= used["tokens"]
    assert answering.calls == sum(isinstance(end, dict) for end in ends) >= 3


async def test_more_money_than_there_is_can_not_be_said(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "cost": 1e12})
    with pytest.raises(ValidationError):
        await ksi.request("budget:set", {"scope": "all", "cost": 1e308})


async def test_money_is_counted_by_the_price_of_the_model(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "cost": 0.0})
    await ksi.request("completion:create", {"prompt": "Hello"})  # the script's answers cost nothing
    assert (await account(ksi, "all"))["cost_spent"] == 0.0
    for name in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"):
        assert price_of("openai", name, {}) == Price(150_000, 600_000, as_of=AS_OF)
    for name in ("unheard-of", "gpt-4o-mini-but-dearer", "o3-2025-04-16-pro"):
        assert price_of("openai", name, {}) is None
    assert price_of("openai", "unheard-of", {"unheard-of": Price(1, 2)}) == Price(1, 2)
    assert Price(150_000, 600_000).cost(input_tokens=1, output_tokens=1) == 1  # rounded up


async def test_a_call_that_costs_more_than_is_left_is_refused(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "cost": 0.001})
    call = {"scopes": ["all"], "provider": "p", "model": "m", "input_tokens": 100, "output_tokens": 100}
    dollar_each = {"input": 5_000_000, "output": 5_000_000}  # micro-dollars for a million tokens
    first = await ksi.request("budget:reserve", {"completion": "a", **call, "price": dollar_each})
    second = await ksi.request("budget:reserve", {"completion": "b", **call, "price": dollar_each})
    assert first["granted"]
    assert (second["granted"], second["unit"], second["left"]) == (False, "micro-dollars", 0)


@pytest.mark.virtual
async def test_a_budget_for_a_day_is_whole_again_on_the_next(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "tokens": 1000, "period": "day"})
    await ksi.request("completion:create", {"prompt": "Hello"})
    lost = {
        "completion": "cut-off",
        "scopes": ["all"],
        "provider": "p",
        "model": "m",
        "price": {"input": 0, "output": 0},
    }
    await ksi.request("budget:reserve", {**lost, "input_tokens": 100, "output_tokens": 100})
    assert [(await account(ksi, "all"))[name] > 0 for name in ("tokens_spent", "tokens_held")] == [True, True]
    await asyncio.sleep(86_400)
    assert [(await account(ksi, "all"))[name] for name in ("tokens_spent", "tokens_held")] == [0, 0]
    await ksi.request("budget:reserve", {**lost, "completion": "b", "input_tokens": 400, "output_tokens": 600})


class Overflowing(ScriptProvider):
    """Writes on, whatever it was told; says in the end what it likes."""

    name = "overflowing"
    usage: Usage | None = None

    async def stream(self, request: CompletionRequest, **more: Any) -> AsyncGenerator[AnyChunk, None]:
        unbounded = msgspec.structs.replace(request, max_tokens=None)
        async with aclosing(super().stream(unbounded, **more)) as chunks:
            async for chunk in chunks:
                is_last = isinstance(chunk, Finished) and self.usage is not None
                yield msgspec.structs.replace(chunk, usage=self.usage) if is_last else chunk


async def test_a_provider_that_writes_on_behind_its_bound_is_stopped_there() -> None:
    provider = Overflowing([ANSWER, ANSWER])
    async with harness(provider, more=(Agent, Budget)) as ksi:
        assert (await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 3}))["text"] == ANSWER
        await ksi.request("budget:set", {"scope": "all", "tokens": 1_000})
        cut = await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 3})
        used = await account(ksi, "all")
        again = await replayed(ksi.log, GoneDesk, Conversation, Completion, Budget)
    assert (cut["text"], cut["finish_reason"], provider.streams_open) == ("one two three", "length", 0)
    assert (cut["usage"]["output_tokens"], again.chunks) == (3, 3)
    assert used["tokens_spent"] <= input_tokens_max(_asked("Hello")) + 3


async def test_what_a_provider_reads_beside_what_it_is_sent_must_fit_too(answering: Answering) -> None:
    async with harness(script(answering), more=(Agent, Budget), overhead_tokens=1_000) as ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": 1_000})
        with pytest.raises(BudgetExceededError) as caught:
            await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 3})
    assert caught.value.needed == input_tokens_max(_asked("Hello")) + 1_003


async def test_usage_beyond_what_was_reserved_is_paid_by_the_next_call() -> None:
    provider = Overflowing([["one"]])
    provider.usage = Usage(input_tokens=4, output_tokens=500)
    async with harness(provider, more=(Agent, Budget)) as ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": 200})
        await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 3})
        assert (await account(ksi, "all"))["tokens_spent"] == 504
        with pytest.raises(BudgetExceededError):
            await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 3})


async def test_where_a_provider_does_not_say_its_usage_all_that_was_reserved_counts() -> None:
    provider = Overflowing([["one"]])
    provider.usage = Usage(input_tokens=1, output_tokens=1, estimated=True)
    async with harness(provider, more=(Budget,)) as ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": 1_000})
        await ksi.request("completion:create", {"prompt": "Hello", "max_tokens": 64})
        used = await account(ksi, "all")
    assert (used["tokens_spent"], used["tokens_held"]) == (input_tokens_max(_asked("Hello")) + 64, 0)


class Oracle(AsyncPlugin):
    """A tool that asks a model itself."""

    name = "oracle"

    @event("oracle:ask")
    async def ask(self, context: EventContext) -> str:
        answer = await context.request("completion:create", prompt="What is true?", max_tokens=9)
        return str(answer["text"])


async def test_calls_with_tools_and_what_the_tools_ask_of_models_count_for_their_agent() -> None:
    provider = then([call("oracle__ask")], "All is.", "So it is.")
    async with harness(provider, more=(Permission, Agent, Budget, Oracle)) as ksi:
        await ksi.request("budget:set", {"scope": "agent:ada", "tokens": 10_000})
        await spawn(ksi, ["oracle:ask"])
        turn = await ksi.request("agent:send_message", GO)
        said = [fact.data["usage"] for fact in await ksi.facts("completion:finished")]
        used = [usage["input_tokens"] + usage["output_tokens"] for usage in said]
        counted = await account(ksi, "agent:ada")
    assert (turn["text"], len(used), counted["tokens_spent"], counted["tokens_held"]) == ("So it is.", 3, sum(used), 0)


def test_a_call_counts_for_the_agent_that_asks_and_for_the_one_that_it_names() -> None:
    assert scopes_of("agent:ada", "p", agent="bob") == (
        "all", "principal:agent:ada", "provider:p", "agent:bob", "agent:ada",
    )  # fmt: skip


async def test_an_answer_says_what_it_cost_and_by_which_price() -> None:
    provider = Overflowing([["one"]] * 3)
    provider.usage = Usage(input_tokens=1_000, output_tokens=500)
    models = ("gpt-4o-mini", "unheard-of")
    provider._models = list(models)
    async with harness(provider, more=(Agent, Budget), models=models) as ksi:
        known = await ksi.request("completion:create", {"prompt": "Hello", "model": "gpt-4o-mini"})
        unknown = await ksi.request("completion:create", {"prompt": "Hello", "model": "unheard-of"})
        await ksi.request("agent:spawn", {"agent": "ada", "model": "gpt-4o-mini"})
        turn = await ksi.request("agent:send_message", {"agent": "ada", "text": "Hello"})
        (shown,) = (await ksi.request("completion:status", {"run": known["run"]}))["completions"]
    assert known["cost"] == shown["cost"] == turn["cost"] == 0.00045
    assert known["price"] == {"input": 150_000, "output": 600_000, "as_of": AS_OF}
    assert (unknown["cost"], unknown["price"]) == (None, None)


async def test_a_cap_can_be_raised_and_removed(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "tokens": 0})
    with pytest.raises(BudgetExceededError):
        await ksi.request("completion:create", {"prompt": "Hello"})
    await ksi.request("budget:remove", {"scope": "all"})
    await ksi.request("completion:create", {"prompt": "Hello"})
    with pytest.raises(NotFoundError):
        await ksi.request("budget:remove", {"scope": "all"})


async def test_budgets_are_there_again_after_a_restart(ksi: EventTestHarness) -> None:
    await ksi.request("budget:set", {"scope": "all", "tokens": 1000})
    await ksi.request("completion:create", {"prompt": "Hello"})
    before = await account(ksi, "all")
    await ksi.restart()
    assert await account(ksi, "all") == before


def _asked(text: str) -> CompletionRequest:
    return CompletionRequest(messages=(Message(role="user", parts=(TextPart(text=text),)),), model="script")


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=20), st.integers(0, 600))
@settings(deadline=None, max_examples=15)
async def test_no_cap_is_ever_passed(calls: list[tuple[int, bool]], cap: int) -> None:
    counted = 0

    def answer(request: CompletionRequest) -> str:
        nonlocal counted
        counted += 1
        return " ".join(["word"] * (request.max_tokens or 1))

    async with harness(script(answer), more=(Budget,)) as ksi:
        await ksi.request("budget:set", {"scope": "all", "tokens": cap})
        for size, together in calls:
            asked = [ksi.request("completion:create", {"prompt": "x", "max_tokens": size}) for _ in range(1 + together)]
            await asyncio.gather(*asked, return_exceptions=True)
            used = await account(ksi, "all")
            assert used["tokens_spent"] + used["tokens_held"] <= cap
