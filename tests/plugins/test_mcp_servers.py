"""Servers of MCP: their tools are tools of agents, with the agent's rights, recorded, and gone with the agent."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.core.config import Config, McpSection, PermissionSection, ProfileSection, Secret
from ksi.core.errors import (
    EventTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    ToolFailedError,
    ToolServerError,
    ValidationError,
)
from ksi.core.home import Home
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent import Agent
from ksi.plugins.composition import Composition
from ksi.plugins.mcp import Mcp, McpServers
from ksi.plugins.permission import Permission
from ksi.plugins.state import State
from ksi.plugins.system import System
from ksi.providers.script import Answer, ScriptProvider
from ksi.testing.harness import EventTestHarness
from tests.plugins.scripted import harness, script
from tests.plugins.test_agent_tools import GO, TURN, call, results, waiting
from tests.plugins.test_replay import again
from tests.plugins.tool_server import answer
from tests.transport.http.site import serving

pytestmark = pytest.mark.leakcheck
SERVER = Path(__file__).with_name("tool_server.py")
TOOLS = McpSection(command=(sys.executable, str(SERVER)), environment={"GREETING": Secret("hello")})
OTHER = (System, Permission, State, Mcp)
ADD = call("mcp__tools_add", '{"a":1,"b":2}')


@asynccontextmanager
async def running(
    tmp_path: Path,
    *answers: Answer,
    provider: ScriptProvider | None = None,
    servers: Mapping[str, McpSection] | None = None,
    ask: tuple[str, ...] = (),
) -> AsyncIterator[EventTestHarness]:
    """A KSI with the server ``tools``; the agent ada may do all but ``mcp:tools/fail``."""
    profiles = {"careful": ProfileSection(allow=("*",), deny=("mcp:tools/fail",), ask=ask)}
    permission = PermissionSection(profiles=profiles, principals={"agent:ada": "careful"})
    config = Config(home=Home(tmp_path), mcp=dict(servers or {"tools": TOOLS}), permission=permission)

    class Configured(AsyncPlugin):
        name = "configured"
        provides = (Config,)

        def services(self) -> Mapping[type, Any]:
            return {Config: config}

    more = (Configured, Permission, Agent, McpServers, Composition)
    async with harness(provider or script(list(answers)), more=more, home=tmp_path) as ksi:
        yield ksi


async def direct(ksi: EventTestHarness, tool: str, **arguments: Any) -> Any:
    return await ksi.request("mcp:call", {"tool": f"mcp:tools/{tool}", "arguments": arguments})


async def pid_of(ksi: EventTestHarness) -> int:
    pid: int = json.loads((await direct(ksi, "process"))["text"])["pid"]
    return pid


async def ended(pid: int) -> None:
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - of a process that is no child of ours
            await asyncio.sleep(0)


# ── a turn ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_profile_names_tools_of_a_server_and_its_agent_calls_them_in_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "clerk.yaml").write_text('prompt: You add.\ntools: ["mcp:tools/a*"]\n')
    provider = script([[ADD, call("mcp__tools_fail", index=1)], "Three."])
    async with running(tmp_path, provider=provider) as ksi:
        spawned = await ksi.request("agent:spawn", {"agent": "ada", "profile": "clerk"})
        turn = await ksi.request("agent:send_message", GO)
        (asked,) = [event async for event in ksi.log.read_stream("$requests") if event.name == "mcp:call"][:1]
        (noted, _) = await ksi.facts("agent:called_tool")
        repeated = await again(ksi, None, Agent, Permission, McpServers)  # which knows no server
    assert spawned["tools"] == ["mcp:tools/add"]
    assert repeated.effects >= 3  # two answers of the model, and that of the tool
    (tool,) = provider.requests[0].tools
    assert (tool.name, tool.description) == ("mcp__tools_add", "Add two numbers.")
    assert set(tool.parameters["properties"]) == {"a", "b"}
    three, unknown = results(provider.requests[1])
    assert (three.content, three.is_error, turn["text"]) == ("3", False, "Three.")
    assert (unknown.is_error, unknown.content.partition(":")[0]) == (True, "unknown_event")
    assert (asked.metadata["principal"], noted.data["tool"]) == ("agent:ada", "mcp__tools_add")


async def test_a_rerun_is_served_what_the_tool_gave_and_starts_no_server(tmp_path: Path) -> None:
    reached, held = asyncio.Event(), asyncio.Event()

    async def gate(index: int) -> None:
        if len(provider.requests) == 2:
            reached.set()
            await held.wait()

    provider = ScriptProvider([[call("mcp__tools_process")], "Done.", "Done."], before_token=gate)
    async with running(tmp_path, provider=provider) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:tools/process"]})
        ksi.stream("agent:send_message", GO, event_id=TURN)
        await reached.wait()
        await ksi.crash()
        held.set()
        await ksi.request("agent:send_message", GO, event_id=TURN)
        assert (await ksi.request("mcp:servers"))["servers"][0]["connections"] == 0
        asked = [event async for event in ksi.log.read_stream("$effects") if event.name == "effect:requested"]
        assert [event.data["effect"] for event in asked].count("mcp:call") == 1
    assert '"pid"' in results(provider.requests[1])[0].content


# ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_rules_of_permission_see_the_tool(tmp_path: Path) -> None:
    provider = script([[call("mcp__tools_fail"), call("mcp__tools_add", '{"a":1,"b":2}', index=1)], "Well."])
    async with running(tmp_path, provider=provider, ask=("mcp:tools/add",)) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:tools/fail", "mcp:tools/add"]})
        turn = asyncio.ensure_future(ksi.request("agent:send_message", GO))
        asked = await waiting(ksi)
        await ksi.request("permission:approve", {"id": asked["event_id"]})
        await turn
        (denied,) = await ksi.facts("permission:denied")
        await ksi.request("permission:grant", {"principal": "tester", "deny": ["mcp:tools/add"]})
        with pytest.raises(PermissionDeniedError):
            await direct(ksi, "add", a=1, b=2)
        with pytest.raises(PermissionDeniedError):
            await ksi.request("agent:spawn", {"agent": "ben", "tools": ["mcp:tools/*"]})
        await ksi.request("permission:grant", {"principal": "tester", "deny": ["mcp:tools/*"]})
        with pytest.raises(PermissionDeniedError):
            await ksi.request("agent:spawn", {"agent": "cid", "tools": ["mcp:tools/add"]})
        used = (await ksi.request("mcp:servers"))["servers"][0]["connections"]
        with pytest.raises(PermissionDeniedError):
            await ksi.request("permission:assign", {"principal": "agent:ben", "profile": "careful"})
    assert (denied.data["event"], denied.data["principal"]) == ("mcp:tools/fail", "agent:ada")
    assert used == 2, "of ada and ben: who may not call it starts no server"
    assert asked["rule"] == "careful: ask mcp:tools/add"
    refused, three = results(provider.requests[1])
    assert (refused.content.partition(":")[0], three.content) == ("permission_denied", "3")


async def test_what_no_server_has_is_no_tool(tmp_path: Path) -> None:
    async with running(tmp_path) as ksi:
        for tool, what in (("mcp:tolls/add", "server of MCP"), ("mcp:tools/ad", "tool"), ("mcp:tools/b*", "tool")):
            with pytest.raises(NotFoundError) as caught:
                await ksi.request("agent:spawn", {"agent": "ada", "tools": [tool]})
            assert caught.value.what == what
        with pytest.raises(ValidationError):
            await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:call"]})


# ── servers that break ───────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_server_that_breaks_is_a_typed_error_and_the_next_call_starts_another(tmp_path: Path) -> None:
    async with running(tmp_path) as ksi:
        first = await pid_of(ksi)
        with pytest.raises(ToolFailedError, match="no such luck"):
            await direct(ksi, "fail")
        assert await pid_of(ksi) == first
        for tool, reason in (("die", "out of paper"), ("shout", "no message: hm"), ("swell", "a line of more than")):
            with pytest.raises(ToolServerError, match=reason):
                await direct(ksi, tool)
        assert await pid_of(ksi) != first
        await ended(first)


async def test_a_call_that_hangs_ends_at_its_limit_and_leaves_the_server(tmp_path: Path) -> None:
    hasty = msgspec.structs.replace(TOOLS, timeout=0.2)
    async with running(tmp_path, servers={"tools": hasty}) as ksi:
        with pytest.raises(EventTimeoutError) as caught:
            await direct(ksi, "hang")
        assert (await ksi.request("mcp:servers"))["servers"][0]["connections"] == 1
    assert caught.value.event_name == "mcp:tools/hang"


@pytest.mark.parametrize(
    ("command", "limit", "reason"),
    [
        (("no-such-program",), 30.0, "no program"),
        ((sys.executable, "-c", "raise SystemExit('it needs a key')"), 30.0, "it needs a key"),
        ((sys.executable, "-c", "import time; time.sleep(99)"), 0.1, "within 0.1 s"),
    ],
)
async def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, command: tuple[str, ...], limit: float, reason: str
) -> None:
    async with running(tmp_path, servers={"tools": McpSection(command=command, start_timeout=limit)}) as ksi:
        with pytest.raises(ToolServerError, match=reason):
            await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:tools/*"]})


# ── lives ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_each_agent_has_a_server_of_its_own_that_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the daemon's own")
    provider = script([[call("mcp__tools_process")], "Done."])
    async with running(tmp_path, provider=provider) as ksi:
        await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:tools/process"]})
        await ksi.request("agent:send_message", GO)
        said = json.loads(results(provider.requests[1])[0].content)
        assert (said["greeting"], said["key"]) == ("hello", None)
        assert await pid_of(ksi) != said["pid"]
        await ksi.request("agent:terminate", {"agent": "ada"})
        await ended(said["pid"])


async def test_a_server_over_http_is_used_in_the_same_way(tmp_path: Path) -> None:
    provider = script([[call("mcp__other_state__set", '{"key":"colour","value":"blue"}')], "Set."])
    async with serving(tmp_path, plugins=OTHER) as other:
        section = McpSection(url=f"{other.url}/mcp", headers={"authorization": Secret(f"Bearer {other.token}")})
        async with running(tmp_path, provider=provider, servers={"other": section}) as ksi:
            await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:other/state__*"]})
            await ksi.request("agent:send_message", GO)
        assert (await other.ksi.request("state:get", {"key": "colour"}))["value"] == "blue"
        wrong = msgspec.structs.replace(section, headers={"authorization": Secret("Bearer ksi_wrong")})
        async with running(tmp_path, servers={"other": wrong}) as ksi:
            with pytest.raises(ToolServerError):
                await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:other/*"]})
    assert '"version":1' in results(provider.requests[1])[0].content


class Forgetful:
    """A server over HTTP, as older ones are: with a session, which it forgets when it begins again."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = re.search(r"content-length: (\d+)", head)
                asked = json.loads(await reader.readexactly(int(length[1]))) if length else {"method": ""}
                status, body = self._answered(head, asked)
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    def _answered(self, head: str, asked: dict[str, Any]) -> tuple[str, str]:
        session = re.search(r"mcp-session-id: (\w+)", head)
        if asked["method"] == "initialize":
            self.sessions.add(name := f"s{len(self.sessions)}")
            status = f"200 OK\r\nmcp-session-id: {name}\r\ncontent-type: application/json"
        elif session is None or session[1] not in self.sessions:
            return "404 Not Found", ""
        else:
            status = "200 OK\r\ncontent-type: application/json" if "id" in asked else "202 Accepted"
        result = answer(asked["method"], asked.get("params", {}))
        return status, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}) if "id" in asked else ""


async def test_a_server_over_http_that_began_again_is_connected_anew(tmp_path: Path) -> None:
    forgetful = Forgetful()
    async with await asyncio.start_server(forgetful.serve, "127.0.0.1", 0) as server:
        section = McpSection(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp")
        async with running(tmp_path, servers={"tools": section}) as ksi:
            assert (await direct(ksi, "add", a=1, b=2))["text"] == "3"
            forgetful.sessions.clear()
            with pytest.raises(ToolServerError, match="Session terminated"):
                await direct(ksi, "add", a=1, b=2)
            assert (await direct(ksi, "add", a=1, b=2))["text"] == "3"


async def test_an_answer_without_an_end_is_cut_off(tmp_path: Path) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" " * (1 << 20))
                await writer.drain()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        section = McpSection(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp")
        async with running(tmp_path, servers={"flood": section}) as ksi:
            with pytest.raises(ToolServerError, match="more than"):
                await ksi.request("agent:spawn", {"agent": "ada", "tools": ["mcp:flood/*"]})
