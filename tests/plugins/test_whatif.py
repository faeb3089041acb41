"""What if: one request is changed, and what depended on it runs again on a branch, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from ksi.core.errors import ConflictError, NotFoundError, ValidationError
from ksi.core.events import Filter, Position
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.branch import Branch
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.state import State
from ksi.plugins.timetravel import TimeTravel
from ksi.providers.base import CompletionRequest
from ksi.providers.prices import Price, dollars
from ksi.providers.script import PROVIDER, ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import replayed
from tests.plugins.scripted import Gate, asked_text, harness, script
from tests.plugins.test_replay import GoneDesk


class Tellers(AsyncPlugin):
    """Three agents: the second is told what the first has left in the state, the third hears of nobody."""

    name = "tellers"

    @event("teller:first", durability="before", on_crash="rerun")
    async def first(self, context: EventContext, text: str) -> None:
        turn = await context.request("agent:send_message", agent="first", text=text)
        await context.request("state:set", key="story", value=turn["text"])

    @event("teller:second", durability="before", on_crash="rerun")
    async def second(self, context: EventContext) -> None:
        story = await context.request("state:get", key="story")
        await context.request("agent:send_message", agent="second", text=f"Go on: {story['value']}")

    @event("teller:third", durability="before", on_crash="rerun")
    async def third(self, context: EventContext) -> None:
        await context.request("agent:send_message", agent="third", text="The weather?")


class Team(AsyncPlugin):
    """The same three in one run: its handler asks them one after the other."""

    name = "team"

    @event("team:all", durability="before", on_crash="rerun")
    async def all_three(self, context: EventContext, text: str) -> None:
        await context.request("teller:first", text=text)
        await context.request("teller:second")
        await context.request("teller:third")


class Hasty(AsyncPlugin):
    """Leaves an answer after its first piece."""

    name = "hasty"

    @event("hasty:ask", durability="before", on_crash="rerun")
    async def ask(self, context: EventContext, text: str) -> str:
        async with aclosing(context.stream("completion:create", prompt="Tell me much.")) as pieces:
            piece = await anext(pieces)
        return f"{text} {piece['text']}"


class Counting:
    """Answers with what it was asked, and counts by whom."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: CompletionRequest) -> str:
        self.asked.append(asked_text(request))
        return f"heard {asked_text(request)}"


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
async def ksi(counting: Counting) -> AsyncIterator[Any]:
    async with harness(script(counting), more=(Agent, State, Tellers, TimeTravel, Branch)) as ksi:
        for agent in ("first", "second", "third"):
            await ksi.request("agent:spawn", {"agent": agent})
        await ksi.request("teller:first", {"text": "My name is Ada."})
        await ksi.request("teller:second")
        await ksi.request("teller:third")
        yield ksi


async def request_named(ksi: Any, name: str) -> int:
    requests = ksi.log.read_all((Filter(names=(name,), kinds=("request",)),), limit=1)
    (position,) = [int(event.position) async for event in requests]
    return position


async def asked(ksi: Any, **fields: Any) -> tuple[list[tuple[str, str]], Any]:
    stream = ksi.stream("timetravel:whatif", fields)
    steps = [(step["name"], step["what"]) async for step in stream]
    return steps, stream.answer


async def test_exactly_those_run_again_that_depended_on_it(ksi: Any, counting: Counting) -> None:
    at = await request_named(ksi, "teller:first")
    before = list(counting.asked)
    steps, answer = await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=True, name="bruno")
    assert steps == [("teller:first", "changed"), ("teller:second", "rerun"), ("teller:third", "kept")]
    assert counting.asked[len(before) :] == ["My name is Bruno.", "Go on: heard My name is Bruno."]
    assert answer["branch"] == "bruno"
    tokens = answer["tokens"]
    assert tokens["saved"] > 0
    assert tokens["spent"] > 0
    assert tokens["before"] > tokens["saved"]
    assert "state/default" in [each["entity"] for each in answer["entities"]]


async def test_in_one_run_too_those_run_again_that_are_asked_something_else(counting: Counting) -> None:
    async with harness(script(counting), more=(Agent, State, Tellers, Team, TimeTravel, Branch)) as ksi:
        for agent in ("first", "second", "third"):
            await ksi.request("agent:spawn", {"agent": agent})
        await ksi.request("team:all", {"text": "My name is Ada."})
        at, before = await request_named(ksi, "team:all"), list(counting.asked)
        _, answer = await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=True, name="bruno")
        assert counting.asked[len(before) :] == ["My name is Bruno.", "Go on: heard My name is Bruno."]
        tokens = answer["tokens"]
        assert tokens["saved"] > 0
        assert tokens["spent"] > tokens["saved"]
        told = await ksi.request("conversation:get", {"conversation": "agent-third"}, branch="bruno")
        assert told["messages"][-1]["parts"][0]["text"] == "heard The weather?"
        assert not ksi.kernel.router.kept
        roots = ksi.log.read_all((Filter(names=("team:all",), kinds=("request",)),), backwards=True, branch="bruno")
        run = (await anext(roots)).correlation_id
        plugins = (GoneDesk, Conversation, Completion, Agent, State, Tellers, Team)
        assert (await replayed(ksi.log, *plugins, run=run, branch="bruno")).effects == 3


async def test_what_was_broken_off_is_asked_again_and_not_served_as_if_it_were_whole(counting: Counting) -> None:
    gate = Gate(passing=1)
    async with harness(script(counting, gate=gate), more=(Agent, State, Hasty, TimeTravel, Branch)) as ksi:
        await ksi.request("hasty:ask", {"text": "one"})
        gate.open()
        at = await request_named(ksi, "hasty:ask")
        stream = ksi.stream("timetravel:whatif", {"at": at, "change": {"text": "two"}, "live": True})
        assert [step["error"] async for step in stream] == [None]
        assert counting.asked == ["Tell me much."] * 2


class Dear(ScriptProvider):
    """One that is paid: a dollar a token, by the price that is configured for its model."""

    name = "dear"


@pytest.mark.parametrize("live", [False, True])
async def test_money_is_told_beside_the_tokens(counting: Counting, live: bool) -> None:
    prices = {PROVIDER: Price(dollars(1e6), dollars(1e6))}
    async with harness(Dear(counting), more=(Agent, State, Tellers, TimeTravel, Branch), prices=prices) as ksi:
        for agent in ("first", "third"):
            await ksi.request("agent:spawn", {"agent": agent})
        await ksi.request("teller:first", {"text": "My name is Ada."})
        await ksi.request("teller:third")
        at = await request_named(ksi, "teller:first")
        _, answer = await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=live)
    tokens, cost = answer["tokens"], answer["cost"]
    assert cost == {**{name: float(count) for name, count in tokens.items()}, "unpriced": 0}
    assert (tokens["saved"] > 0, tokens["before"] > tokens["saved"], tokens["spent"] > 0) == (True, True, live)


async def test_answers_whose_price_nobody_knows_are_counted(counting: Counting) -> None:
    async with harness(Dear(counting), more=(Agent, Tellers, State, TimeTravel, Branch)) as ksi:
        await ksi.request("agent:spawn", {"agent": "first"})
        await ksi.request("teller:first", {"text": "My name is Ada."})
        at = await request_named(ksi, "teller:first")
        _, answer = await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=True)
    assert answer["cost"] == {"spent": 0.0, "saved": 0.0, "before": 0.0, "unpriced": 2}


async def test_what_runs_again_is_for_the_subject_that_it_was_for() -> None:
    async with EventTestHarness(State, TimeTravel, Branch) as ksi:
        await ksi.request("state:set", {"key": "name", "value": "Ada"}, subject="person/1")
        await asked(ksi, at=1, change={"value": "Eve"}, live=True, name="eve")
        everything = (Filter(kinds=("request", "fact", "outcome")),)
        told = [each async for each in ksi.log.read_all(everything, branch="eve") if each.branch == "eve"]
    assert len(told) == 3
    assert {each.subject for each in told} == {"person/1"}


async def test_main_is_as_it_was(ksi: Any) -> None:
    at = await request_named(ksi, "teller:first")
    facts = await ksi.facts()
    await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=True)
    assert [event for event in await ksi.facts() if event.stream != "$branches"] == facts
    assert (await ksi.request("state:get", {"key": "story"}))["value"] == "heard My name is Ada."


async def test_without_live_nothing_runs_and_no_branch_is_made(ksi: Any, counting: Counting) -> None:
    at, calls = await request_named(ksi, "teller:first"), len(counting.asked)
    steps, answer = await asked(ksi, at=at, change={"text": "x"})
    assert [what for _, what in steps] == ["changed", "rerun", "kept"]
    assert (answer["branch"], answer["tokens"]["spent"], len(counting.asked)) == (None, 0, calls)
    assert [info["name"] for info in (await ksi.request("store:branches"))["branches"]] == ["main"]


@pytest.mark.parametrize("live", [False, True])
async def test_a_change_that_the_event_does_not_take_is_refused_before_anything_runs(
    ksi: Any, counting: Counting, live: bool
) -> None:
    at, calls = await request_named(ksi, "teller:first"), len(counting.asked)
    with pytest.raises(ValidationError, match="txt"):
        await asked(ksi, at=at, change={"txt": "My name is Bruno."}, live=live)
    assert len(counting.asked) == calls
    assert [info["name"] for info in (await ksi.request("store:branches"))["branches"]] == ["main"]


async def test_what_is_no_request_from_outside_is_refused_and_the_one_behind_it_named(ksi: Any) -> None:
    root, nested = await request_named(ksi, "teller:first"), await request_named(ksi, "completion:create")
    with pytest.raises(ValidationError, match=f"@{root}"):
        await asked(ksi, at=nested, change={"text": "x"})
    with pytest.raises(NotFoundError):
        await asked(ksi, at=99_999, change={"text": "x"})


async def test_a_change_that_changes_nothing_and_a_name_that_is_taken_are_refused(ksi: Any) -> None:
    at = await request_named(ksi, "teller:first")
    with pytest.raises(ValidationError, match="nothing is changed"):
        await asked(ksi, at=at, change={"text": "My name is Ada."})
    await asked(ksi, at=at, change={"text": "x"}, live=True, name="taken")
    with pytest.raises(ConflictError):
        await asked(ksi, at=at, change={"text": "y"}, live=True, name="taken")


@pytest.mark.parametrize("what", ["kept", "rerun"])
async def test_runs_of_the_branch_are_repeated_also_what_was_kept(ksi: Any, what: str) -> None:
    at = await request_named(ksi, "teller:first")
    run = (await ksi.log.at(await request_named(ksi, "teller:third"))).correlation_id
    await asked(ksi, at=at, change={"text": "My name is Bruno."}, live=True, name="bruno")
    if what == "rerun":
        roots = ksi.log.read_all(
            (Filter(names=("teller:second",), kinds=("request",)),), backwards=True, branch="bruno"
        )
        run = (await anext(roots)).correlation_id
    plugins = (GoneDesk, Conversation, Completion, Agent, State, Tellers)
    found = await replayed(ksi.log, *plugins, run=run, branch="bruno")
    assert (found.run, found.requests, found.effects) == (run, 3, 1)


async def test_on_a_branch_too_a_crash_costs_nothing_twice(counting: Counting) -> None:
    turn = "01a00000-0000-7000-8000-000000000001"
    gate = Gate(passing=2)
    async with harness(script(counting, gate=gate), more=(Agent,)) as ksi:
        await ksi.request("agent:spawn", {"agent": "first"})
        await ksi.log.fork(await ksi.log.head() or Position(0), "exp")
        message = {"agent": "first", "text": "Who are you?"}
        asking = asyncio.create_task(ksi.request("agent:send_message", message, event_id=turn, branch="exp"))
        await gate.reached.wait()
        gate.open()
        await ksi.crash()
        await asyncio.gather(asking, return_exceptions=True)
        answered = await ksi.request("agent:send_message", message, event_id=turn, branch="exp")
        chunks = ksi.log.read_stream(f"turn/{turn}", branch="exp")
        assert "".join([each.data["text"] async for each in chunks if each.kind == "chunk"]) == answered["text"]
    assert answered["text"] == "heard Who are you?"
    assert len(counting.asked) == 2


async def test_one_that_a_crash_cut_off_goes_on_on_its_branch_and_pays_nothing_twice(counting: Counting) -> None:
    asked_again = "01a00000-0000-7000-8000-000000000002"
    gate = Gate(passing=1_000)
    async with harness(script(counting, gate=gate), more=(Agent, State, Branch, TimeTravel, Tellers)) as ksi:
        for agent in ("first", "second", "third"):
            await ksi.request("agent:spawn", {"agent": agent})
        await ksi.request("teller:first", {"text": "My name is Ada."})
        await ksi.request("teller:second")
        gate.shut(passing=1_000)
        at = await request_named(ksi, "teller:first")
        told_before = len(counting.asked)
        gate.shut(passing=7)  # all of the first one's answer, and of the second one's a part
        question = {"at": at, "change": {"text": "My name is Bruno."}, "live": True}
        asking = asyncio.create_task(ksi.request("timetravel:whatif", question, event_id=asked_again))
        await gate.reached.wait()
        gate.open()
        await ksi.crash()
        await asyncio.gather(asking, return_exceptions=True)
        answer = await ksi.request("timetravel:whatif", question, event_id=asked_again)
        assert answer["branch"] == f"whatif-{at}-{asked_again[-6:]}"
        assert len(counting.asked) == told_before + 3, "the first, and the second twice: it was cut off"
        story = (await ksi.request("state:get", {"key": "story"}, branch=answer["branch"]))["value"]
        assert story == "heard My name is Bruno."
