"""The configuration of the page about MCP starts a server, with the rights that the page gives it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from mcp import Client, StdioServerParameters

from ksi.testing.daemon_process import DaemonProcess
from ksi.transport.tokens import TokenStore
from tests.docs.pages import ROOT, commands, only

PAGE = ROOT / "docs" / "how-to" / "use-mcp.md"


async def test_a_client_that_is_configured_so_has_the_tools_of_its_profile(tmp_path: Path) -> None:
    server = msgspec.json.decode(only(PAGE, "json", "mcpServers"))["mcpServers"]["ksi"]
    (create,) = commands(next(line.strip() for line in PAGE.read_text().splitlines() if "token create" in line))
    async with DaemonProcess(tmp_path / "home") as daemon:
        token = TokenStore(daemon.home.tokens).create(create[4], create[6])
        arguments = ["-m", "ksi.cli", *server["args"], "--home", str(daemon.home.path)]
        parameters = StdioServerParameters(command=sys.executable, args=arguments, env={"KSI_TOKEN": token})
        async with Client(parameters) as mcp:
            names = {tool.name for tool in (await mcp.list_tools()).tools}
    assert "state__set" in names
    assert "plugin__load" not in names
