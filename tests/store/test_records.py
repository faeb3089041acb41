"""Records of views: what JSON holds is kept exactly, and what can not be stored fails its own command alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.core.errors import InternalError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness

HUGE = 2**64 + 1


@fact("thing:was_put")
class Put(msgspec.Struct, frozen=True):
    name: str
    rank: int
    value: Any


class Thing(msgspec.Struct, frozen=True):
    name: str
    rank: int
    value: Any


class Things(View[Thing]):
    name = "things"
    query = (Filter(names=("thing:was_put",)),)
    record = Thing
    key = ("name",)
    indexes = {"by_rank": ("rank",)}  # noqa: RUF012  # declared in the base

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        put = event.into(Put)
        writer.put(Thing(put.name, put.rank, float("nan") if put.value == "nan" else put.value))


class ThingPlugin(AsyncPlugin):
    name = "thing"
    views = (Things,)

    @event("thing:put")
    async def put(self, name: str, value: Any, context: EventContext, rank: int = 0) -> None:
        context.append(f"thing/{name}", Put(name, rank, value))


async def test_an_integer_of_any_size_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store, EventTestHarness(ThingPlugin, log=store) as ksi:
        await ksi.request("thing:put", {"name": "huge", "value": HUGE})
        await ksi.request("thing:put", {"name": "low", "value": -HUGE})
    async with SqliteEventStore.open(path) as store, EventTestHarness(ThingPlugin, log=store) as ksi:
        things = ksi.log.view(Things)
        assert [(await things.get(name)).value for name in ("huge", "low")] == [HUGE, -HUGE]  # type: ignore[union-attr]  # just put
        await ksi.request("thing:put", {"name": "next", "value": 1})


@pytest.mark.parametrize("wrong", [{"value": "nan"}, {"value": 1, "rank": HUGE}])
async def test_a_record_that_can_not_be_stored_fails_its_own_command_alone(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store, EventTestHarness(ThingPlugin, log=store) as ksi:
        with pytest.raises(InternalError):
            await ksi.request("thing:put", {"name": "wrong", **wrong})
        await ksi.request("thing:put", {"name": "right", "value": 1})
        assert [thing.name for thing in (await ksi.log.view(Things).scan()).records] == ["right"]
