"""What follows the log follows ``main``: to ask for it elsewhere is refused, not recorded where nobody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ksi.core.errors import CancelledError, ConflictError, UnsupportedError
from ksi.core.events import Filter
from ksi.core.threads import InlineThreads
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.middleware import Middleware, Parked
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.branch import Branch
from ksi.plugins.permission import Permission
from ksi.plugins.route import RoutePlugin
from ksi.plugins.schedule import Scheduler
from ksi.plugins.state import State
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness

EVERY_SECOND = {"name": "tick", "event": "state:set", "data": {"key": "a", "value": 2}, "every": 1}


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("schedule:add", EVERY_SECOND),
        ("schedule:remove", {"name": "tick"}),
        ("route:add", {"name": "copy", "pattern": "state:*", "target": "state:set"}),
        ("route:remove", {"name": "copy"}),
        ("permission:grant", {"principal": "agent:ada", "allow": ["state:*"]}),
        ("permission:revoke", {"principal": "agent:ada"}),
        ("permission:assign", {"principal": "agent:ada", "profile": "restricted"}),
    ],
)
async def test_what_is_of_main_is_not_changed_on_a_branch(event: str, data: Mapping[str, Any]) -> None:
    async with EventTestHarness(State, Branch, Permission, RoutePlugin, Scheduler) as ksi:
        await ksi.request("state:set", {"key": "a", "value": 1})
        await ksi.request("store:fork", {"name": "aside"})
        with pytest.raises(UnsupportedError, match="not on the branch 'aside'"):
            await ksi.request(event, data, branch="aside")


async def test_a_branch_that_was_materialized_answers_from_its_tables(tmp_path: Path) -> None:
    opened = SqliteEventStore.open(tmp_path / "events.db", threads=InlineThreads())
    async with opened as log, EventTestHarness(State, Branch, log=log) as ksi:
        await ksi.request("state:set", {"key": "a", "value": 1})
        await ksi.request("store:fork", {"name": "aside"})
        await ksi.request("state:set", {"key": "a", "value": 2}, branch="aside")
        made = await ksi.request("store:materialize", {"name": "aside"})
        assert (made["name"], "state" in made["views"]) == ("aside", True)
        await ksi.request("state:set", {"key": "b", "value": 3}, branch="aside")
        assert [await value(ksi, key, "aside") for key in "ab"] == [2, 3]
        assert [await value(ksi, key, "main") for key in "ab"] == [1, None]


async def value(ksi: EventTestHarness, key: str, branch: str) -> Any:
    return (await ksi.request("state:get", {"key": key}, branch=branch))["value"]


class Waiting(AsyncPlugin):
    """Waits for ever."""

    name = "waiting"

    @event("waiting:wait", durability="before", on_crash="rerun")
    async def wait(self, context: EventContext) -> None:
        await asyncio.Event().wait()


class Parks(AsyncPlugin):
    """Has it wait for somebody's word first."""

    name = "parks"

    def middleware(self) -> Sequence[Middleware]:
        return [
            Middleware(name="parks", pattern="waiting:*", bind=lambda spec: lambda envelope, session: Parked("ask"))
        ]


async def until_asked(ksi: EventTestHarness) -> None:
    query = (Filter(names=("waiting:wait",), kinds=("request",)),)
    async with ksi.log.subscribe(query, after="start", branch="aside") as requests:
        await anext(aiter(requests))


async def test_what_runs_on_a_branch_is_cancelled_before_that_is_discarded() -> None:
    async with EventTestHarness(State, Branch, Waiting) as ksi:
        await ksi.request("store:fork", {"name": "aside"})
        waiting = asyncio.create_task(ksi.request("waiting:wait", branch="aside"))
        await until_asked(ksi)
        with pytest.raises(ConflictError):
            await ksi.request("store:discard", {"name": "aside"}, branch="aside")
        await ksi.request("store:discard", {"name": "aside"})
        with pytest.raises(CancelledError):
            await waiting


async def test_what_is_parked_on_a_branch_ends_with_it() -> None:
    async with EventTestHarness(State, Branch, Waiting, Parks) as ksi:
        await ksi.request("store:fork", {"name": "aside"})
        waiting = asyncio.create_task(ksi.request("waiting:wait", branch="aside"))
        async with ksi.log.subscribe((Filter(names=("request:parked",)),), after="start", branch="aside") as facts:
            await anext(aiter(facts))
        await ksi.request("store:discard", {"name": "aside"})
        with pytest.raises(CancelledError):
            await waiting
        assert not [known async for known in ksi.log.open_requests()]


async def test_what_was_open_on_a_branch_that_is_gone_keeps_no_start_up() -> None:
    async with EventTestHarness(State, Branch, Waiting) as ksi:
        await ksi.request("store:fork", {"name": "aside"})
        waiting = asyncio.create_task(ksi.request("waiting:wait", branch="aside"))
        await until_asked(ksi)
        await ksi.log.discard("aside")
        await ksi.crash()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (ksi.recovered.rerun, ksi.recovered.closed) == (0, 0)
        await ksi.request("state:set", {"key": "a", "value": 1})
