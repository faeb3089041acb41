"""``ksi mcp``: KSI as a server of the Model Context Protocol, on stdin and stdout."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, command
from ksi.cli.reach import run
from ksi.client.client import EventClient
from ksi.core.errors import ConfigError
from ksi.plugins.mcp.asking import ClientAsking


@command()
@click.pass_obj
def mcp(invocation: Invocation) -> None:
    """Serve the Model Context Protocol on stdin and stdout: events as tools, log and conversations as resources.

    The tools are the events that you may ask for; with KSI_TOKEN those of the token's principal.
    """
    invocation.start = True
    run(invocation, _serve)


async def _serve(client: EventClient) -> None:
    try:
        from mcp.server.stdio import stdio_server  # an extra

        from ksi.plugins.mcp.server import McpServer
    except ImportError:
        raise ConfigError("MCP needs more: pip install 'ksi[mcp]'", where="ksi mcp") from None
    server = McpServer(lambda _: ClientAsking(client)).server
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
