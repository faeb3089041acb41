"""Servers of MCP that the configuration names, and calls of their tools: each principal has connections of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.core.config import Config, McpSection, Settings
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import NotFoundError, OverloadedError, PermissionDeniedError, UnsupportedError
from ksi.core.events import RecordedEvent
from ksi.core.patterns import matches
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, observer, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.mcp.results import Called, Offered, called, offered

if TYPE_CHECKING:
    from ksi.plugins.mcp.peer import Peer

PREFIX = "mcp:"
CALL = "mcp:call"
DAEMON = "daemon"
PEERS_MAX = 64
"""Connections, those of all principals counted."""
ToolName = Annotated[
    str, Meta(pattern=r"^mcp:[A-Za-z0-9_-]+/.+$", max_length=200, description="as in mcp:files/read_file")
]


class Server(msgspec.Struct, frozen=True):
    """``connections`` are open now: one for each principal that uses it."""

    name: str
    transport: Literal["stdio", "http"]
    connections: int


class Servers(msgspec.Struct, frozen=True):
    servers: list[Server]


class Offers(msgspec.Struct, frozen=True):
    tools: list[Offered]


class _Call(msgspec.Struct):
    tool: str = CALL


def _permission(envelope: EventEnvelope) -> str:
    """A call goes by the name of its tool; one that names none is refused by its schema soon."""
    try:
        tool = msgspec.json.decode(envelope.raw, type=_Call).tool
    except msgspec.MsgspecError:
        return CALL
    return tool if tool.startswith(PREFIX) else CALL


class McpServers(AsyncPlugin):
    """The tools of servers. Connections are made where one is needed, and end with the agent that they are for."""

    name = "mcp-servers"

    async def initialize(self) -> None:
        services = self.host.services
        settings: Settings = services.get(Config) if services.provider_of(Config) else Settings()
        self._servers: Mapping[str, McpSection] = settings.mcp
        self._threads = services.get(Router).threads
        self._peers: dict[tuple[str, str], Peer] = {}

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @query("mcp:servers", inline=True, examples=[{}])
    def list_servers(self) -> Servers:
        """List the servers of MCP that the configuration names."""
        used = [server for _, server in self._peers]
        found = sorted(self._servers.items())
        return Servers([Server(name, "stdio" if it.command else "http", used.count(name)) for name, it in found])

    @event(
        "mcp:list",
        timeout=None,
        errors=["not_found", "overloaded", "unsupported", "permission_denied", "tool_server_failed"],
        examples=[{"tools": ["mcp:files/*"]}, {"tools": ["mcp:files/read_*", "mcp:search/find"]}],
    )
    async def list_tools(
        self,
        tools: Annotated[list[ToolName], Meta(min_length=1, max_length=64)],
        context: EventContext,
        principal: Annotated[str | None, Meta(description="whose connection is asked; for the daemon")] = None,
    ) -> Offers:
        """List the tools of servers that fit patterns, with their schemas."""
        if principal not in (None, context.principal) and context.principal != DAEMON:
            rule = "a principal asks over its own connections"
            raise PermissionDeniedError("mcp:list", principal=context.principal, rule=rule)
        look = partial(self._offers, principal or context.principal, tools)
        found: Offers = await context.observe("mcp:list", {"tools": tools}, look, result=Offers)
        return found

    @event(
        CALL,
        durability="before",
        timeout=None,
        permission=_permission,
        errors=["not_found", "overloaded", "unsupported", "timeout", "tool_failed", "tool_server_failed"],
        examples=[{"tool": "mcp:files/read_file", "arguments": {"path": "notes.md"}}],
    )
    async def call(self, tool: ToolName, context: EventContext, arguments: dict[str, Any] | None = None) -> Called:
        """Call a tool of a server, in the name of who asks. Rules of permission see the name of the tool."""
        asked = {"tool": tool, "arguments": arguments or {}}
        call = partial(self._call, context.principal, tool, arguments or {})
        done: Called = await context.effect(CALL, asked, call, result=Called)
        return done

    @observer("agent:terminated")
    async def forget_terminated(self, event: RecordedEvent) -> None:
        """Its connections end, and with them the servers that were started for it."""
        self._forget(event.stream.replace("/", ":", 1))

    @observer("agent:restarted")
    async def forget_restarted(self, event: RecordedEvent) -> None:
        self._forget(event.stream.replace("/", ":", 1))

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _offers(self, principal: str, patterns: list[str]) -> Offers:
        found: dict[str, Offered] = {}
        for pattern in patterns:
            server = pattern.removeprefix(PREFIX).partition("/")[0]
            tools = [offered(server, tool) for tool in await (await self._peer(principal, server)).tools()]
            fitting = {tool.name: tool for tool in tools if matches(pattern, tool.name)}
            if not fitting:
                known = [tool.name for tool in tools]
                raise NotFoundError("tool", pattern, suggestions=difflib.get_close_matches(pattern, known))
            found |= fitting
        return Offers(list(found.values()))

    async def _call(self, principal: str, name: str, arguments: dict[str, Any]) -> Called:
        server, _, tool = name.removeprefix(PREFIX).partition("/")
        peer = await self._peer(principal, server)
        return called(server, tool, await peer.call(tool, arguments))

    async def _peer(self, principal: str, server: str) -> Peer:
        """The connection of ``principal``, a new one where there is none, or its last has ended."""
        section = self._servers.get(server)
        if section is None:
            close = difflib.get_close_matches(server, self._servers)
            raise NotFoundError("server of MCP", server, suggestions=close)
        kind = await self._threads.run("blocking", _loaded)
        peer = self._peers.get((principal, server))
        if peer is not None and not peer.is_over:
            return peer
        if len(self._peers) >= PEERS_MAX:
            raise OverloadedError("connections to servers of MCP", limit=PEERS_MAX)
        peer = self._peers[principal, server] = kind(server, section, self.host.logger)
        self.host.spawn(self._held(peer, (principal, server)))
        return peer

    async def _held(self, peer: Peer, key: tuple[str, str]) -> None:
        try:
            await peer.run()
        finally:
            if self._peers.get(key) is peer:
                del self._peers[key]

    def _forget(self, principal: str) -> None:
        for (owner, _), peer in self._peers.items():
            if owner == principal:
                peer.close()


def _loaded() -> type[Peer]:
    """In a thread, for the package alone takes a second."""
    try:
        from ksi.plugins.mcp.peer import Peer  # an extra, and slow to load
    except ImportError:
        raise UnsupportedError("MCP needs more: pip install 'ksi[mcp]'") from None
    return Peer
