"""One rule, every way to the event that it denies: each transport, an agent's tool call, a route and a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from ksi.client.client import EventClient
from ksi.core.errors import PermissionDeniedError
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.plugins.mcp import Mcp
from ksi.plugins.permission import Permission
from ksi.plugins.route import RoutePlugin
from ksi.plugins.schedule import Scheduler
from ksi.plugins.state import State
from ksi.plugins.system import System
from ksi.providers.desk import Desk, Offer
from ksi.transport.unix import UnixServer
from tests.plugins.scripted import script
from tests.plugins.test_agent_tools import GO, call, results
from tests.transport.http.site import Site, serving

ADA = "agent:ada"
SET = {"key": "colour", "value": "blue"}
MODEL = script([[call("state__set", '{"key":"colour","value":"blue"}')], "I may not."])


class OwnDesk(AsyncPlugin):
    name = "own-desk"
    provides = (Desk,)

    def services(self) -> Mapping[type, Any]:
        return {Desk: Desk([Offer(name="script", make=lambda: MODEL, models=("script",))], default="script")}


PLUGINS = (OwnDesk, Conversation, Completion, System, Permission, State, Agent, RoutePlugin, Scheduler, Mcp)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, plugins=PLUGINS) as site:
        yield site


async def test_what_is_denied_is_denied_by_every_way_that_leads_to_it(site: Site, tmp_path: Path) -> None:
    token = site.tokens.create(ADA)
    async with UnixServer(site.ksi.kernel.router, tmp_path / "ksi.sock", tokens=site.tokens):
        ways: list[str | Path] = [tmp_path / "ksi.sock", site.url, f"{site.url.replace('http', 'ws')}/v1/ws"]
        clients = [partial(EventClient, where, token=token) for where in ways]
        async with clients[0]() as ada:
            route = {"name": "r", "pattern": "state:value_was_set", "target": "state:delete", "mapping": {"key": "a"}}
            await ada.request("route:add", route)
            await ada.request("schedule:add", name="s", event="probe:act", data={"name": "by the clock"}, every=0.5)
        await site.ksi.request("agent:spawn", {"agent": "ada", "tools": ["state:set"]})
        rule = {"principal": ADA, "deny": ["state:set", "state:delete", "probe:act", "probe:count"]}
        await site.ksi.request("permission:grant", rule)

        # First, for of the many of one second the log has ten one by one.
        await site.ksi.request("state:set", {"key": "a", "value": 1})  # which the route would answer with a delete
        await logged(site, {"state:delete"})
        for way in clients:
            async with way() as ada:
                with pytest.raises(PermissionDeniedError):
                    await ada.request("state:set", SET)
                with pytest.raises(PermissionDeniedError):
                    await anext(ada.stream("probe:count", to=1))
        for frame in ({}, {"_client_id": "ada"}):  # as the clients of the original say it
            assert b"permission_denied" in await told_by_line(tmp_path / "ksi.sock", token, frame)
    assert "permission_denied" in await told_by_mcp(site, token)
    await site.ksi.request("agent:send_message", GO)
    assert results(MODEL.requests[1])[0].content.startswith("permission_denied")
    await logged(site, {"state:set", "probe:act", "probe:count"})
    assert (await site.ksi.request("state:get", {"key": "a"}))["value"] == 1
    assert site.probe.ended == []


async def told_by_mcp(site: Site, token: str) -> str:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False) as http,
        Client(streamable_http_client(f"{site.url}/mcp", http_client=http)) as mcp,
    ):
        result = await mcp.call_tool("state__set", SET)
        return str(result.content[0])


async def told_by_line(socket: Path, token: str, frame: Mapping[str, Any]) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    asked = ({"hello": 1, "token": token}, {"event": "state:set", "data": SET, **frame})
    writer.write(b"".join(msgspec.json.encode(each) + b"\n" for each in asked))
    await reader.readline()
    said = await reader.readline()
    writer.close()
    return said


async def logged(site: Site, events: set[str]) -> None:
    """Return when the log says of each of ``events`` that it was denied to ada."""
    async with asyncio.timeout(20):
        while not events <= await denied(site):  # noqa: ASYNC110  # turns of the loop
            await asyncio.sleep(0)


async def denied(site: Site) -> set[str]:
    """The events that the log says were denied to ada."""
    facts = await site.ksi.facts("permission:denied")
    return {fact.data["event"] for fact in facts if fact.data["principal"] == ADA}
