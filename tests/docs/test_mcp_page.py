"""The configuration of the page about MCP starts a server, with the rights that the page gives it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from mcp import Client, StdioServerParameters

from ksi.testing.daemon_process import DaemonProcess
from ksi.transport.tokens import TokenStore
from tests.docs.pages import ROOT, commands, only

PAGE = ROOT / "docs" / "how-to" / "use-mcp.md"


async def test_a_client_that_is_configured_so_is_served_on_its_pipes(tmp_path: Path) -> None:
    server = msgspec.json.decode(only(PAGE, "json", "mcpServers"))["mcpServers"]["ksi"]
    (create,) = commands(next(line.strip() for line in PAGE.read_text().splitlines() if "token create" in line))
    settings = {"providers.default": "script", "providers.script": "It is deep"}
    seen: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with DaemonProcess(tmp_path / "home", settings=settings) as daemon:
        token = TokenStore(daemon.home.tokens).create(create[4], create[6])
        arguments = ["-m", "ksi.cli", *server["args"], "--home", str(daemon.home.path)]
        parameters = StdioServerParameters(command=sys.executable, args=arguments, env={"KSI_TOKEN": token})
        async with Client(parameters) as mcp:
            names = {tool.name for tool in (await mcp.list_tools()).tools}
            asked = {"prompt": "Tell me.", "conversation": "c1"}
            answer: Any = await mcp.call_tool("completion__create", asked, progress_callback=on_progress)
            resources = [each.name for each in (await mcp.list_resources()).resources]
            said: Any = await mcp.read_resource("ksi://conversation/c1")
    assert "state__set" in names
    assert "plugin__load" not in names, "its profile does not allow it"
    assert (answer.structured_content["text"], "".join(map(str, seen))) == ("It is deep", "It is deep")
    assert (resources, "Tell me." in said.contents[0].text) == (["log", "c1"], True)
