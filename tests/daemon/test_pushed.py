"""``completion:async`` over real sockets: the answer at once, the result pushed to who asked, in order of priority."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.conftest import HERE
from tests.daemon.test_doors import LINE_MAX, Stranger

SETTINGS = {"providers.default": "script", "providers.script": "unused"}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(tmp_path / "home", HERE / "rehearsal.py", settings=SETTINGS) as daemon:
        yield daemon


async def stranger(daemon: DaemonProcess) -> Stranger:
    return Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_MAX))


def ask(prompt: str, **data: Any) -> dict[str, Any]:
    """A frame of an original client."""
    return {"event": "completion:async", "data": {"prompt": prompt, **data}, "correlation_id": f"c-{prompt}"}


async def until_queued(client: EventClient, count: int) -> None:
    async with asyncio.timeout(30):
        while (await client.request("completion:status"))["queued"] < count:
            pass


async def test_the_result_is_pushed_behind_the_answer_to_the_connection_that_asked_alone(
    daemon: DaemonProcess,
) -> None:
    asking, other = await stranger(daemon), await stranger(daemon)
    async with daemon.client() as client, client.subscribe("completion:result", after="end") as results:
        answer = await asking.ask(ask("Hello.", request_id="r1", client_id="c7"))
        assert answer == {
            "request_id": "r1",
            "session_id": "session-r1",
            "status": "queued",
            "correlation_id": "c-Hello.",
        }
        await client.request("rehearsal:begin")
        pushed = await asking.receive()
        fact = await anext(results)
        assert (await other.ask({"event": "system:health"}))["status"] == "healthy"
    assert (pushed["event"], pushed["event_name"]) == ("completion:result", "completion:result")
    assert pushed["correlation_id"] == "c-Hello."
    assert pushed["data"]["ksi"]["client_id"] == "c7"
    assert (pushed["data"]["response"]["result"], pushed["data"]["response"]["session_id"]) == (
        "You said: Hello.",
        "session-r1",
    )
    assert fact.data["data"] == pushed["data"]
    for each in (asking, other):
        each.hang_up()


async def test_those_that_wait_are_served_in_the_order_of_their_priorities(daemon: DaemonProcess) -> None:
    asking = await stranger(daemon)
    async with daemon.client() as client:
        await asking.ask(ask("first"))
        await client.request("rehearsal:asked")
        waiting: list[int | str] = ["background", "low", "normal", 5, "high", "critical"]
        for count, priority in enumerate(waiting, 1):
            await asking.ask(ask(str(priority), priority=priority))
            await until_queued(client, count)
        await client.request("rehearsal:begin")
        said = [(await asking.receive())["data"]["response"]["result"] for _ in range(7)]
    assert said == [f"You said: {each}" for each in ("first", "critical", "high", 5, "normal", "low", "background")]
    asking.hang_up()


async def test_a_result_whose_asker_is_gone_is_a_fact_all_the_same(daemon: DaemonProcess) -> None:
    asking = await stranger(daemon)
    async with daemon.client() as client, client.subscribe("completion:result", after="end") as results:
        await asking.ask(ask("Hello.", request_id="r1"))
        asking.hang_up()
        await client.request("rehearsal:begin")
        assert (await anext(results)).data["data"]["ksi"]["request_id"] == "r1"


async def test_after_a_kill_the_result_is_an_error_that_subscribers_see_and_nobody_is_asked_again(
    daemon: DaemonProcess,
) -> None:
    asking = await stranger(daemon)
    async with daemon.client() as client:
        await asking.ask(ask("Hello.", request_id="r1"))
        await client.request("rehearsal:asked")
        await daemon.kill()
        await daemon.start()
        async with asyncio.timeout(30), client.subscribe("completion:error", after="start") as errors:
            error = (await anext(errors)).data["data"]
        assert (error["ksi"]["request_id"], error["code"]) == ("r1", "interrupted")
        assert (await client.request("completion:status"))["running"] == 0
    asking.hang_up()
