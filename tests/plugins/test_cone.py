"""The cone of an event: what it caused, and whoever had read what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.reads import READS_MAX
from ksi.plugins.state import State
from ksi.plugins.timetravel import TimeTravel
from tests.plugins.running import Daemon, running


class Workers(AsyncPlugin):
    """Commands that read in one way or another, and write on."""

    name = "workers"

    @event("worker:note")
    async def note(self, context: EventContext, key: str, value: int = 1) -> None:
        await context.request("state:set", key=key, value=value)

    @event("worker:copy")
    async def copy(self, context: EventContext, key: str, to: str) -> None:
        found = await context.request("state:get", key=key)
        await context.request("state:set", key=to, value=found["value"])

    @event("worker:count")
    async def count(self, context: EventContext, to: str) -> None:
        keys = await context.request("state:list")
        await context.request("state:set", key=to, value=len(keys["values"]))

    @event("worker:history", durability="before")
    async def history(self, context: EventContext, to: str) -> None:
        facts = [event async for event in context.read_stream("state/default")]
        await context.request("state:set", key=to, namespace="other", value=len(facts))

    @event("worker:read_much")
    async def read_much(self, context: EventContext) -> None:
        for number in range(READS_MAX + 1):
            await context.request("state:get", key=f"k{number}")


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(State, TimeTravel, Workers) as daemon:
        yield daemon


async def cone(daemon: Daemon, place: int) -> list[tuple[str, str]]:
    found = await daemon.ask("timetravel:cone", event_id=f"@{place}")
    return [(member["name"], member["why"]) for member in found["requests"]]


async def fact_of(daemon: Daemon, key: str) -> int:
    (place,) = [each.position async for each in daemon.log.read_all() if each.data["key"] == key]
    return place


async def test_what_a_request_caused_is_in_its_cone(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="a")
    await daemon.ask("worker:note", key="b")
    assert await cone(daemon, 1) == [("worker:note", "caused"), ("state:set", "caused")]


async def test_who_had_read_what_was_written_in_it_is_too_and_so_on(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="a")
    await daemon.ask("worker:copy", key="a", to="b")
    await daemon.ask("worker:copy", key="b", to="c")
    await daemon.ask("worker:note", key="d")
    found = await cone(daemon, await fact_of(daemon, "a"))
    assert found == [("worker:copy", "read"), ("state:set", "caused"), ("worker:copy", "read"), ("state:set", "caused")]


async def test_who_read_before_it_was_written_is_not(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="a")
    await daemon.ask("worker:copy", key="a", to="b")
    await daemon.ask("state:set", key="a", value=2)
    *_, last = [each.position async for each in daemon.log.read_all() if each.data["key"] == "a"]
    assert await cone(daemon, last) == []


@pytest.mark.parametrize("name", ["worker:count", "worker:history"])
async def test_a_scan_and_a_stream_are_read_too(daemon: Daemon, name: str) -> None:
    await daemon.ask("worker:note", key="a")
    await daemon.ask("worker:note", key="x", value=2)
    await daemon.ask(name, to="n")
    assert (name, "read") in await cone(daemon, await fact_of(daemon, "a"))


async def test_a_scan_that_would_have_shown_what_is_gone_depends_on_its_going(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="a")
    await daemon.ask("state:delete", key="a")
    await daemon.ask("worker:count", to="n")
    *_, gone = [each.position async for each in daemon.log.read_all() if each.data["key"] == "a"]
    assert ("worker:count", "read") in await cone(daemon, gone)


async def test_who_had_read_more_than_is_kept_counts_as_one_that_had_read_all(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="unread")
    await daemon.ask("worker:read_much")
    assert await cone(daemon, await fact_of(daemon, "unread")) == [("worker:read_much", "read")]


async def test_of_three_only_the_one_that_read_depends_on_the_first(daemon: Daemon) -> None:
    await daemon.ask("worker:note", key="name", value=7)
    await daemon.ask("worker:copy", key="name", to="greeting")
    await daemon.ask("worker:note", key="weather")
    assert await cone(daemon, 1) == [
        ("worker:note", "caused"),
        ("state:set", "caused"),
        ("worker:copy", "read"),
        ("state:set", "caused"),
    ]


async def test_others_are_served_while_a_large_cone_grows(daemon: Daemon) -> None:
    count, turns = 60, 0
    await daemon.ask("worker:note", key="k0")
    for number in range(count):
        await daemon.ask("worker:copy", key=f"k{number}", to=f"k{number + 1}")
    growing = asyncio.ensure_future(cone(daemon, await fact_of(daemon, "k0")))
    while not growing.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(growing.result()) > count
    assert turns > count
