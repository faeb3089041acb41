"""Requests that wait for somebody's word, and rights given at run time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.client.client import EventClient
from ksi.core.config import ProfileSection
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import AmbiguousError, KSIError, NotFoundError, PermissionDeniedError, ValidationError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.permission import Permission
from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.harness import EventTestHarness
from tests.plugins.running import OWNER, Daemon, running
from tests.plugins.test_permission import config

OTHER = "uid:2"
"""Who has a word on what the owner asks for."""
ASKING = ProfileSection(allow=("*",), ask=("tool:*",))


class Tools(AsyncPlugin):
    """A tool, and a turn that calls it."""

    name = "tools"
    runs = 0

    @event("tool:use")
    async def use(self, what: str) -> str:
        Tools.runs += 1
        return f"used {what}"

    @query("tool:look", inline=True)
    def look(self) -> str:
        return "seen"

    @event("turn:take", durability="before", on_crash="rerun")
    async def take(self, context: EventContext) -> str:
        answer: str = await context.request("tool:use", what="a hammer")
        return answer


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    Tools.runs = 0
    async with running(Permission, Tools, services=config(mine=ASKING)) as daemon:
        yield daemon


async def waiting(daemon: Daemon, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(found := (await daemon.ask("permission:pending"))["requests"]) != count:
            await daemon.log.bell.wait()  # type: ignore[attr-defined]  # each of them is a commit
    return list(found)


async def test_a_request_waits_until_somebody_says_yes_and_runs_once(daemon: Daemon) -> None:
    asked = asyncio.ensure_future(daemon.ask("tool:use", what="a saw"))
    (request,) = await waiting(daemon)
    assert (request["event"], request["principal"], request["rule"]) == ("tool:use", OWNER, "mine: ask tool:*")
    assert not asked.done()
    await daemon.ask("permission:approve", principal=OTHER, id=request["event_id"][:13], why="it is his saw")
    assert (await asked, Tools.runs) == ("used a saw", 1)
    assert await waiting(daemon, 0) == []
    (decided,) = [event.data async for event in daemon.log.read_all() if event.name == "permission:was_decided"]
    assert (decided["approved"], decided["by"], decided["why"]) == (True, OTHER, "it is his saw")
    with pytest.raises(NotFoundError):
        await daemon.ask("permission:approve", principal=OTHER, id=request["event_id"])


async def test_nobody_approves_its_own_request(daemon: Daemon) -> None:
    asked = asyncio.ensure_future(daemon.ask("tool:use", what="a saw"))
    (request,) = await waiting(daemon)
    with pytest.raises(PermissionDeniedError, match="its own"):
        await daemon.ask("permission:approve", id=request["event_id"])
    assert (await waiting(daemon))[0]["event_id"] == request["event_id"]
    await daemon.ask("permission:deny", id=request["event_id"])  # to take it back is another thing
    with pytest.raises(PermissionDeniedError):
        await asked
    assert Tools.runs == 0


async def test_a_turn_stands_still_while_its_tool_waits(daemon: Daemon) -> None:
    turn = asyncio.ensure_future(daemon.ask("turn:take"))
    (request,) = await waiting(daemon)
    await daemon.ask("permission:approve", principal=OTHER, id=request["event_id"])
    assert await turn == "used a hammer"


async def test_who_is_told_no_gets_the_word(daemon: Daemon) -> None:
    asked = asyncio.ensure_future(daemon.ask("tool:use", what="a saw"))
    (request,) = await waiting(daemon)
    await daemon.ask("permission:deny", id=request["event_id"], why="too sharp")
    with pytest.raises(PermissionDeniedError, match="too sharp"):
        await asked
    assert Tools.runs == 0


async def test_a_query_may_wait_too(daemon: Daemon) -> None:
    asked = asyncio.ensure_future(daemon.ask("tool:look"))
    (request,) = await waiting(daemon)
    await daemon.ask("permission:approve", principal=OTHER, id=request["event_id"])
    assert await asked == "seen"


async def test_the_beginning_of_an_id_must_name_one(daemon: Daemon) -> None:
    asked = [asyncio.ensure_future(daemon.ask("tool:use", what=str(number))) for number in range(2)]
    requests = await waiting(daemon, 2)
    with pytest.raises(AmbiguousError):
        await daemon.ask("permission:approve", principal=OTHER, id=requests[0]["event_id"][:4])
    with pytest.raises(NotFoundError):
        await daemon.ask("permission:approve", principal=OTHER, id="ffffffff")
    for request in requests:
        await daemon.ask("permission:deny", id=request["event_id"])
    assert all(isinstance(end, PermissionDeniedError) for end in await asyncio.gather(*asked, return_exceptions=True))


async def ask_as_owner(daemon: Daemon, event: str, **fields: Any) -> Any:
    return await daemon.kernel.router.call(event, fields, session=Session(principal=OWNER, source="test"))


async def test_rights_count_at_once_and_are_taken_back(daemon: Daemon) -> None:
    await ask_as_owner(daemon, "permission:grant", principal=OWNER, allow=["tool:*"])
    assert await daemon.ask("tool:use", what="a saw") == "used a saw"
    await ask_as_owner(daemon, "permission:grant", principal=OWNER, deny=["tool:use"])
    with pytest.raises(PermissionDeniedError) as caught:
        await daemon.ask("tool:use", what="a saw")
    assert caught.value.rule == "grant: deny tool:use"
    shown = await ask_as_owner(daemon, "permission:show")
    assert shown["granted"] == {"allow": ["tool:*"], "deny": ["tool:use"], "ask": []}
    await ask_as_owner(daemon, "permission:revoke", principal=OWNER)
    checked = await daemon.ask("permission:check", event="tool:use")
    assert (checked["verdict"], checked["allowed"]) == ("ask", False)
    with pytest.raises(NotFoundError):
        await ask_as_owner(daemon, "permission:revoke", principal=OWNER)
    with pytest.raises(ValidationError):
        await ask_as_owner(daemon, "permission:grant", principal=OWNER)


PROFILE = """
[permission]
default_profile = "asking"
[permission.profiles.asking]
allow = ["*"]
ask = ["tool:*"]
"""


async def pending(client: EventClient) -> list[dict[str, Any]]:
    """The requests that wait, once there is one."""
    async with asyncio.timeout(20), client.subscribe("request:parked", after="start") as parked:
        async for _ in parked:
            return list((await client.request("permission:pending"))["requests"])
    raise AssertionError("nothing waits")


async def test_over_a_restart_it_still_waits_and_then_runs_once(tmp_path: Path) -> None:
    """A turn, kill -9 while its tool waits, and the word afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "ksi.toml").write_text(PROFILE)
    async with (
        DaemonProcess(home, Path(__file__).with_name("asked_tool.py")) as daemon,
        EventClient(home=home) as client,
    ):
        receipt = await client.send("turn:take")
        (before,) = await pending(client)
        await daemon.kill()
        await daemon.start()
        (after,) = await pending(client)
        assert after["event_id"] == before["event_id"]
        await client.request("permission:approve", id=after["event_id"])
        async with asyncio.timeout(20), client.subscribe("turn:take", after="start", kinds=["outcome"]) as ends:
            async for end in ends:
                assert end.data["data"]["ok"] is True
                break
        run = await client.request("log:read", pattern="tool:was_used", correlation_id=receipt.correlation_id)
        assert len(run["events"]) == 1


async def test_what_a_session_remembers_ends_with_a_right_that_is_taken() -> None:
    async with running(Permission, Tools) as daemon:
        session, ends = Session(principal="agent:ada", source="test"), list[KSIError | None]()

        def look() -> None:
            envelope = EventEnvelope.create("tool:look")
            daemon.kernel.router.dispatch(envelope, session, lambda _, raw, error: ends.append(error), None)

        look()
        await ask_as_owner(daemon, "permission:grant", principal="agent:ada", deny=["tool:*"])
        look()
        async with asyncio.timeout(10):
            while len(ends) < 2:
                await daemon.log.bell.wait()  # type: ignore[attr-defined]  # the denial is a commit
    assert ends[0] is None
    assert isinstance(ends[1], PermissionDeniedError)


async def test_grants_are_there_after_a_restart() -> None:
    async with EventTestHarness(Permission, Tools) as ksi:
        await ksi.request("permission:grant", {"principal": "agent:ada", "deny": ["tool:*"]})
        await ksi.restart()
        checked = await ksi.request("permission:check", {"principal": "agent:ada", "event": "tool:use"})
        assert (checked["verdict"], checked["rule"]) == ("deny", "grant: deny tool:*")
