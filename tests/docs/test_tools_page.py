"""The page about tools: its servers of MCP are those of its ksi.toml, and none outlives the daemon."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess
from tests.docs.pages import ROOT, only

PAGE = ROOT / "docs" / "how-to" / "give-an-agent-tools.md"


async def test_the_server_of_the_page_keeps_notes_and_is_killed_with_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "secretary.yaml").write_text(only(PAGE, "yaml", "secretary.yaml"))
    said = only(PAGE, "toml", "[mcp.notes]").replace('"python"', msgspec.json.encode(sys.executable).decode())
    (tmp_path / "ksi.toml").write_text(said.replace("examples/", f"{ROOT}/examples/"))
    async with DaemonProcess(tmp_path) as daemon, daemon.client() as client:
        eve = await client.request("agent:spawn", agent="eve", profile="secretary")
        written = await call(client, "write_note", name="sea", text="It is blue.")
        read = await call(client, "read_note", name="sea")
        children = daemon.children()
        await daemon.kill()
    assert eve["tools"] == ["state:get", "mcp:notes/write_note", "mcp:notes/read_note"]
    assert (written["text"], read["text"]) == ("sea is kept", "It is blue.")
    assert len(children) >= 2  # that of eve, and ours
    async with asyncio.timeout(10):
        while any(Path(f"/proc/{pid}").exists() for pid in children):  # noqa: ASYNC110, ASYNC240 - no children of ours
            await asyncio.sleep(0)


async def call(client: EventClient, tool: str, **arguments: str) -> Any:
    return await client.request("mcp:call", tool=f"mcp:notes/{tool}", arguments=arguments)
