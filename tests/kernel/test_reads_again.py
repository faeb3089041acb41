"""A rerun is given what the first run has read: it asks its nested requests for the same."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ksi.core.errors import NotFoundError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness

ID = "01900000-0000-7000-8000-000000000001"


@fact("count:was_set")
class CountWasSet(msgspec.Struct, frozen=True):
    name: str
    value: int


class Count(msgspec.Struct, frozen=True):
    name: str
    value: int


class Counts(View[Count]):
    name = "counts"
    query = (Filter(names=("count:was_set",)),)
    record = Count
    key = ("name",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        was_set = event.into(CountWasSet)
        writer.put(Count(was_set.name, was_set.value))


class CountPlugin(AsyncPlugin):
    """``count:up_by_…`` reads, sets one more, then waits at the gate; a crash there makes it run again."""

    name = "count"
    views = (Counts,)
    gate = asyncio.Event()
    reached = asyncio.Event()

    @query("count:get")
    async def get(self, name: str, context: EventContext) -> int:
        count = await context.view(Counts).get(name)
        return count.value if count else 0

    @query("count:missing")
    async def missing(self, name: str, context: EventContext) -> int:
        if await context.view(Counts).get(name) is None:
            raise NotFoundError("count", name)
        return 1

    @event("count:set")
    async def set_count(self, name: str, value: int, context: EventContext) -> int:
        context.append(f"count/{name}", CountWasSet(name, value))
        return value

    @event("count:up_by_query")
    async def up_by_query(self, name: str, context: EventContext) -> int:
        return await self._up(context, name, await context.request("count:get", name=name))

    @event("count:up_by_get")
    async def up_by_get(self, name: str, context: EventContext) -> int:
        count = await context.view(Counts).get(name)
        return await self._up(context, name, count.value if count else 0)

    @event("count:up_by_scan", durability="before", on_crash="rerun")
    async def up_by_scan(self, name: str, context: EventContext) -> int:
        page = await context.view(Counts).scan()
        return await self._up(context, name, sum(count.value for count in page.records))

    @event("count:up_by_error")
    async def up_by_error(self, name: str, context: EventContext) -> int:
        try:
            seen = await context.request("count:missing", name=name)
        except NotFoundError:
            seen = 0
        return await self._up(context, name, seen)

    @event("count:up_below")
    async def up_below(self, name: str, context: EventContext) -> int:
        seen = await context.request("count:get", name=name)
        below: int = await context.request("count:up_by_query", name=name)
        return int(seen) * 100 + below

    @event("count:up_twice")
    async def up_twice(self, name: str, context: EventContext) -> int:
        for _ in range(2):
            seen = await context.request("count:get", name=name)
            await context.request("count:set", name=name, value=seen + 1)
        return await self._up(context, name, await context.request("count:get", name=name))

    async def _up(self, context: EventContext, name: str, seen: int) -> int:
        value: int = await context.request("count:set", name=name, value=seen + 1)
        self.reached.set()
        await self.gate.wait()
        return value


@pytest.mark.parametrize(
    ("how", "values"),
    [("by_query", [1]), ("by_get", [1]), ("by_scan", [1]), ("by_error", [1]), ("below", [1]), ("twice", [1, 2, 3])],
)
async def test_a_crash_behind_a_nested_command_does_not_change_what_it_asked_for(how: str, values: list[int]) -> None:
    CountPlugin.gate, CountPlugin.reached = asyncio.Event(), asyncio.Event()
    async with EventTestHarness(CountPlugin) as ksi:
        first = asyncio.ensure_future(ksi.request(f"count:up_{how}", {"name": "a"}, event_id=ID))
        await CountPlugin.reached.wait()
        await ksi.crash()
        await asyncio.wait([first])
        CountPlugin.gate.set()
        assert await ksi.request(f"count:up_{how}", {"name": "a"}, event_id=ID) == values[-1]
        assert await ksi.request("count:get", {"name": "a"}) == values[-1]
        sets: list[Any] = await ksi.facts("count:was_set")
        assert [each.data["value"] for each in sets] == values
