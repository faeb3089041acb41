"""Whatever handlers do through their context, a replay is identical; and what is changed in one is found."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import NotFoundError, ReplayDivergenceError
from ksi.core.events import Filter, NewEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import newest_run, replayed

LEAVES = st.sampled_from(
    ["say", "effect", "failing effect", "observe", "now", "random", "ask", "failing ask", "emit", "commit"]
)
STEPS: Any = st.recursive(LEAVES, lambda below: st.lists(below, min_size=1, max_size=4), max_leaves=12)


class Actor(AsyncPlugin):
    """Plays steps; a list of them is played at once. ``shift`` makes another version of it, ``acted`` counts."""

    name = "actor"
    shift: ClassVar[int] = 0
    acted: ClassVar[int] = 0

    @event("actor:play", durability="before", on_crash="rerun")
    async def play(self, steps: list[Any], context: EventContext) -> list[Any]:
        return [await self._play(step, context, str(number)) for number, step in enumerate(steps)]

    @event("actor:decide")
    async def decide(self, steps: list[Any], context: EventContext) -> list[Any]:
        return [await self._play(step, context, str(number)) for number, step in enumerate(steps)]

    @query("actor:ask")
    async def ask(self, what: str, context: EventContext) -> int:
        if what.startswith("no"):
            raise NotFoundError("answer", what)
        return len([event async for event in context.read_stream("actor/lines")])

    @event("actor:note")
    async def note(self, what: str, context: EventContext) -> str:
        context.append("actor/notes", NewEvent(name="actor:noted", data={"what": what}))
        return what

    async def _play(self, step: Any, context: EventContext, place: str) -> Any:
        if isinstance(step, list):
            below = [self._play(each, context, f"{place}.{number}") for number, each in enumerate(step)]
            return await asyncio.gather(*below)
        try:
            return await getattr(self, f"_{step.replace(' ', '_')}")(context, place)
        except NotFoundError as error:
            return error.message

    async def _say(self, context: EventContext, place: str) -> None:
        data = {"place": place, "shift": self.shift}
        context.append("actor/lines", NewEvent(name="actor:said", data=data))

    async def _effect(self, context: EventContext, place: str) -> Any:
        return await context.effect("act", {"place": place}, self._act)

    async def _act_and_say(self, context: EventContext, place: str) -> Any:
        acted = await context.effect("act", {"place": place}, self._act)
        await self._say(context, place)
        return acted

    async def _failing_effect(self, context: EventContext, place: str) -> Any:
        async def fail() -> int:
            await self._act()
            raise NotFoundError("act", place)

        return await context.effect("act", {"fails": place}, fail)

    async def _observe(self, context: EventContext, place: str) -> Any:
        return await context.observe("look", place, self._act)

    async def _act(self) -> int:
        await asyncio.sleep(0)
        Actor.acted += 1
        return Actor.acted

    async def _now(self, context: EventContext, place: str) -> str:
        return context.now().isoformat()

    async def _random(self, context: EventContext, place: str) -> float:
        return context.random.random()

    async def _ask(self, context: EventContext, place: str) -> Any:
        return await context.request("actor:ask", what=place)

    async def _failing_ask(self, context: EventContext, place: str) -> Any:
        return await context.request("actor:ask", what=f"no {place}")

    async def _emit(self, context: EventContext, place: str) -> None:
        context.emit("actor:note", what=place)

    async def _commit(self, context: EventContext, place: str) -> Any:
        await context.commit()
        return await context.request("actor:note", what=f"nested {place}")


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["actor:play", "actor:decide"]), steps=st.lists(STEPS, max_size=6))
async def test_a_run_is_identical_whatever_its_handlers_do(name: str, steps: list[Any]) -> None:
    Actor.shift = 0
    async with EventTestHarness(Actor) as ksi:
        await ksi.request(name, {"steps": steps})
        await emitted_ones(ksi)
        acted = Actor.acted
        found = await replayed(ksi.log, Actor, run=await newest_run(ksi.log))
        assert Actor.acted == acted
        assert found.facts == len(await ksi.facts("actor:*"))
        if "say" not in str(steps):
            return
        Actor.shift = 1
        with pytest.raises(ReplayDivergenceError) as caught:
            await replayed(ksi.log, Actor)
        assert caught.value.position == (await ksi.facts("actor:said"))[0].position


async def emitted_ones(ksi: EventTestHarness) -> None:
    """Until each request has its end."""
    asked, ended = (Filter(kinds=("request",), names=("actor:*",)),), (Filter(kinds=("outcome",), names=("actor:*",)),)
    left = len([event async for event in ksi.log.read_all(asked)])
    async with ksi.log.subscribe(ended, after="start") as events:
        async for _ in events:
            left -= 1
            if left == 0:
                return
