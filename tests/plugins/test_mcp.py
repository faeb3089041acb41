"""KSI as a server of MCP, asked by the protocol's own package over HTTP; on pipes it is the test of the docs' page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import msgspec
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from ksi.codegen.tools import rooted, tool_name
from ksi.plugins.agent import Agent
from ksi.plugins.conversation import Conversation
from ksi.plugins.log import Log
from ksi.plugins.mcp import Mcp
from ksi.plugins.permission import Permission
from ksi.plugins.state import State
from ksi.plugins.system import System
from ksi.transport import lapsing
from tests.transport.http.site import Site, serving

Mode = Literal["auto", "legacy"]
PLUGINS = (System, Permission, State, Log, Conversation, Agent, Mcp)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, plugins=PLUGINS) as site:
        yield site


@asynccontextmanager
async def client(site: Site, token: str | None = None, mode: Mode = "auto") -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {token or site.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(f"{site.url}/mcp", http_client=http), mode=mode) as connected,
    ):
        yield connected


def text(result: Any) -> str:
    said: str = result.content[0].text
    return said


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_events_are_tools_with_their_schemas(site: Site, mode: Mode) -> None:
    async with client(site, mode=mode) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        assert set(tools["state__set"].input_schema["properties"]) >= {"namespace", "key", "value"}
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools.values())
        assert "event__subscribe" not in tools
        done = await mcp.call_tool("state__set", {"key": "colour", "value": "blue"})
        assert (done.is_error, done.structured_content["version"]) == (False, 1)
    assert (await site.ksi.request("state:get", {"key": "colour"}))["value"] == "blue"
    (request,) = [event async for event in site.ksi.log.read_stream("$requests") if event.name == "state:set"][:1]
    assert (request.metadata["principal"], request.metadata["source"]) == ("uid:1000", "mcp")


async def test_an_error_of_an_event_is_told_to_the_model(site: Site) -> None:
    async with client(site) as mcp:
        failed = await mcp.call_tool("state__set", {"key": "colour"})
        assert failed.is_error
        assert text(failed).startswith("validation_error: ")
        with pytest.raises(MCPError):
            await mcp.call_tool("no__tool", {})


async def test_what_a_profile_denies_is_no_tool_and_is_refused(site: Site) -> None:
    await site.ksi.request("permission:grant", {"principal": "agent:desk", "deny": ["state:set", "log:*"]})
    token = site.tokens.create("agent:desk")
    async with client(site, token) as mcp:
        names = {tool.name for tool in (await mcp.list_tools()).tools}
        assert "state__get" in names
        assert "state__set" not in names
        refused = await mcp.call_tool("state__set", {"key": "colour", "value": "blue"})
        assert refused.is_error
        assert text(refused).startswith("permission_denied: ")
        with pytest.raises(MCPError, match="permission_denied"):
            await mcp.read_resource("ksi://log")
    (denied, *_) = await site.ksi.facts("permission:denied")
    assert (denied.data["event"], denied.data["principal"]) == ("state:set", "agent:desk")


async def test_nobody_comes_in_without_a_token(site: Site) -> None:
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{site.url}/mcp", json={})).status_code == 401


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_stream_tells_its_progress_and_answers_with_its_end(site: Site, mode: Mode) -> None:
    seen: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))

    async with client(site, mode=mode) as mcp:
        result = await mcp.call_tool("probe__count", {"to": 3}, progress_callback=on_progress)
    assert text(result) == '"counted"'
    assert seen == [(1, "1"), (2, "2"), (3, "3")]


async def test_a_call_that_is_given_up_stops_the_stream(site: Site) -> None:
    async with client(site) as mcp:
        calling = asyncio.ensure_future(mcp.call_tool("probe__held", {"name": "given up"}))
        await site.probe.began.wait()
        calling.cancel()
        await site.until(lambda: "given up" in site.probe.ended)


async def test_a_call_that_has_begun_to_answer_ends_with_its_token(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapsing, "CHECK_EVERY", 0.01)
    begun = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with client(site) as mcp:
        asked = mcp.call_tool("probe__held", {"name": "revoked"}, progress_callback=on_progress)
        calling = asyncio.ensure_future(asked)
        await begun.wait()
        site.tokens.revoke(site.tokens.verify(site.token).token_id)
        await site.until(lambda: "revoked" in site.probe.ended)
        calling.cancel()


async def test_the_log_and_runs_are_resources(site: Site) -> None:
    await site.ksi.request("state:set", {"key": "colour", "value": "blue"})
    async with client(site) as mcp:
        assert [str(each.uri) for each in (await mcp.list_resources()).resources] == ["ksi://log"]
        templates = (await mcp.list_resource_templates()).resource_templates
        assert {each.name for each in templates} == {"run", "conversation"}
        shown = msgspec.json.decode((await mcp.read_resource("ksi://log")).contents[0].text)  # type: ignore[union-attr]
        fact = next(event for event in shown["events"] if event["kind"] == "fact")
        run = await mcp.read_resource(f"ksi://run/{fact['correlation_id']}")
        assert fact["event_id"] in run.contents[0].text  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="no resource"):
            await mcp.read_resource("ksi://elsewhere")


def test_names_are_those_that_providers_take() -> None:
    assert tool_name("state:compare_and_set") == "state__compare_and_set"


def test_a_schema_has_its_object_at_the_root() -> None:
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {}}}}
    assert rooted(schema) == {"type": "object", "properties": {}}
    assert rooted({"type": "object"}) == {"type": "object"}
