"""Whatever is asked, in whatever mix: each request is answered once, keys keep their order, nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import NotFoundError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.door import Call
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import run
from tests.kernel.running import plugin
from tests.kernel.test_execution import Answers, idle

KEYS = ("a", "b")
KEYED = ("keyed", "keyed_inline", "keyed_blocking", "nested")
EPSILON = 0.05
"""Seconds by which a limit may be late: a few ticks of the wheel."""


class Ask(NamedTuple):
    """One request: ``gap`` seconds after the one before, cancelled ``cancel`` seconds after that."""

    kind: Literal["inline", "blocking", "async", "keyed", "keyed_inline", "keyed_blocking", "nested", "slot", "fails"]
    key: str
    seconds: int
    gap: int
    priority: int
    cancel: int | None
    deadline: int | None


class Span(NamedTuple):
    """When a handler ran."""

    number: int
    began: float
    ended: float


asks = st.builds(
    Ask,
    kind=st.sampled_from(("inline", "blocking", "async", *KEYED, "slot", "fails")),
    key=st.sampled_from(KEYS),
    seconds=st.integers(1, 3),
    gap=st.integers(0, 1),
    priority=st.integers(0, 2),
    cancel=st.none() | st.integers(0, 4),
    deadline=st.none() | st.integers(1, 6),
)
patient = asks.map(lambda ask: ask._replace(cancel=None, deadline=None))


def mixes(of: st.SearchStrategy[Ask]) -> st.SearchStrategy[list[Ask]]:
    """Enough for them to meet: a short list is as good as none."""
    return st.lists(of, min_size=12, max_size=30)


class Stage:
    """Handlers of all kinds, and when each of them ran."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        self.began: list[int] = []

    async def _run(self, where: str, number: int, seconds: int) -> int:
        self.began.append(number)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.spans[where].append(Span(number, began, loop.time()))
        return number

    def plugin(self) -> Any:
        stage = self

        @query("p:inline", inline=True)
        def inline(self: Any, number: int, key: str, seconds: int) -> int:
            return number

        @query("p:blocking", blocking=True)
        def blocking(self: Any, number: int, key: str, seconds: int) -> int:
            return number

        @query("p:async")
        async def waiting(self: Any, number: int, key: str, seconds: int) -> int:
            return await stage._run("async", number, seconds)

        @event("p:keyed", key=lambda request: request.key)
        async def keyed(self: Any, number: int, key: str, seconds: int) -> int:
            return await stage._run(key, number, seconds)

        @event("p:keyed_inline", key=lambda request: request.key, inline=True)
        def keyed_inline(self: Any, number: int, key: str, seconds: int) -> int:
            stage.began.append(number)
            return number

        @event("p:keyed_blocking", key=lambda request: request.key, blocking=True)
        def keyed_blocking(self: Any, number: int, key: str, seconds: int) -> int:
            stage.began.append(number)
            return number

        @event("p:nested", key=lambda request: request.key)
        async def nested(self: Any, number: int, key: str, seconds: int, context: EventContext) -> int:
            return int(await context.request("p:keyed", number=number, key=key, seconds=seconds))

        @event("p:slot", concurrent=2)
        async def slot(self: Any, number: int, key: str, seconds: int) -> int:
            return await stage._run("slot", number, seconds)

        @event("p:fails", key=lambda request: request.key)
        async def fails(self: Any, number: int, key: str, seconds: int) -> int:
            await stage._run(key, number, seconds)
            raise NotFoundError("answer", str(number))

        functions = (inline, blocking, waiting, keyed, keyed_inline, keyed_blocking, nested, slot, fails)
        return plugin(*functions)


class Played(NamedTuple):
    """What came of a mix: when each was asked, and the answers as (number, JSON, code) with the time of each."""

    stage: Stage
    asked_at: list[float]
    answers: list[tuple[int, bytes | None, str]]
    answered_at: dict[int, float]
    is_idle: bool


class TimedAnswers(Answers):
    """Answers with the time at which each came."""

    def __init__(self, ksi: EventTestHarness) -> None:
        super().__init__(ksi)
        self.at: dict[int, float] = {}

    def _take(self, token: Any, raw: Any, error: Any) -> None:
        self.at[token] = asyncio.get_running_loop().time()
        super()._take(token, raw, error)


async def play(mix: list[Ask]) -> Played:
    stage, asked_at = Stage(), []
    loop = asyncio.get_running_loop()
    async with EventTestHarness(stage.plugin()) as ksi:
        answers = TimedAnswers(ksi)
        for number, ask in enumerate(mix):
            await asyncio.sleep(ask.gap)
            asked_at.append(loop.time())
            deadline = None if ask.deadline is None else ksi.clock.time_us() + ask.deadline * 1_000_000
            raw = b'{"number":%d,"key":"%s","seconds":%d}' % (number, ask.key.encode(), ask.seconds)
            name = f"p:{ask.kind}"
            call = answers.ask(name, raw, token=number, priority=ask.priority, deadline_us=deadline)
            if call is not None and ask.cancel is not None:
                loop.call_later(ask.cancel, _cancel, call)
        await asyncio.sleep(1 + sum(ask.seconds for ask in mix))
        got = [(token, raw, error.code if error else "ok") for token, raw, error in answers.got]
        return Played(stage, asked_at, got, answers.at, idle(ksi))


def _cancel(call: Call) -> None:
    """Twice: the second time it is nobody's any more."""
    call.cancel()
    call.cancel()


@settings(max_examples=40, deadline=None)
@given(mix=mixes(asks), seed=st.integers(0, 1_000))
def test_each_request_is_answered_exactly_once_and_as_it_must_be(mix: list[Ask], seed: int) -> None:
    played = run(play(mix), seed=seed)
    assert Counter(number for number, _, _ in played.answers) == Counter(range(len(mix)))
    for number, raw, code in played.answers:
        ask = mix[number]
        allowed = {"not_found" if ask.kind == "fails" else "ok"}
        allowed |= {"cancelled"} if ask.cancel is not None else set()
        allowed |= {"deadline_exceeded"} if ask.deadline is not None else set()
        assert code in allowed
        assert code != "ok" or raw == b"%d" % number
    assert played.is_idle


@settings(max_examples=40, deadline=None)
@given(mix=mixes(asks), seed=st.integers(0, 1_000))
def test_one_key_runs_one_at_a_time_and_slots_no_more_than_there_are(mix: list[Ask], seed: int) -> None:
    spans = run(play(mix), seed=seed).stage.spans
    for key in KEYS:
        ordered = sorted(spans[key], key=lambda span: (span.began, span.ended))
        assert all(one.ended <= other.began for one, other in pairwise(ordered))
    for span in spans["slot"]:
        assert sum(other.began <= span.began < other.ended for other in spans["slot"]) <= 2


@settings(max_examples=40, deadline=None)
@given(mix=mixes(patient), seed=st.integers(0, 1_000))
def test_requests_of_one_key_and_priority_begin_in_the_order_of_asking(mix: list[Ask], seed: int) -> None:
    began = run(play(mix), seed=seed).stage.began
    for key in KEYS:
        for priority in range(3):
            same = {
                number
                for number, ask in enumerate(mix)
                if (ask.key, ask.priority) == (key, priority) and ask.kind in (*KEYED, "fails")
            }
            assert [number for number in began if number in same] == sorted(same)


@settings(max_examples=40, deadline=None)
@given(mix=mixes(asks), seed=st.integers(0, 1_000))
def test_nobody_waits_for_more_than_the_work_of_its_own_key(mix: list[Ask], seed: int) -> None:
    played = run(play(mix), seed=seed)
    for number, ask in enumerate(mix):
        waited = played.answered_at[number] - played.asked_at[number]
        assert waited <= _bound(ask, mix) + EPSILON


def _bound(ask: Ask, mix: list[Ask]) -> float:
    """The most seconds that the answer to ``ask`` may take: its own, and those of whom it may have to wait for."""
    if ask.kind in ("inline", "blocking"):
        return 0
    if ask.kind == "async":
        return ask.seconds
    in_front = [other for other in mix if (other.kind == "slot") == (ask.kind == "slot")]
    return sum(
        other.seconds
        for other in in_front
        if ask.kind == "slot" or (other.key == ask.key and other.kind in (*KEYED, "fails"))
    )
