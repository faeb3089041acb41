"""Which events are tools for whom, and the path ``/mcp``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from ksi.codegen.tools import rooted, tool_name
from ksi.core.errors import PermissionDeniedError, UnsupportedError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin, Route
from ksi.kernel.router import Router
from ksi.kernel.table import Row

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ksi.plugins.mcp.http import McpApp


class Tool(msgspec.Struct, frozen=True):
    """An event as a tool; ``schema`` is that of its payload, ``streams``: its answer comes in pieces."""

    name: str
    event: str
    description: str
    schema: dict[str, Any]
    streams: bool


class Tools(msgspec.Struct, frozen=True):
    tools: list[Tool]


class Mcp(AsyncPlugin):
    """Serves the Model Context Protocol."""

    name = "mcp"

    async def initialize(self) -> None:
        self._app: asyncio.Task[McpApp] | None = None

    def routes(self) -> Iterable[Route]:
        return (Route(path="/mcp", methods=("GET", "POST", "DELETE"), app=self._serve),)

    @query("mcp:tools", inline=True, examples=[{}, {"name": "state__set"}])
    def tools(
        self,
        context: EventContext,
        name: Annotated[str | None, Meta(description="only this tool, whether it is permitted or not")] = None,
    ) -> Tools:
        """List the events that who asks may ask for, as tools. Streams without an end of their own are none."""
        rows = [row for row in self.host.services.get(Router).table.values() if _is_tool(row)]
        if name is not None:
            return Tools([_tool(row) for row in rows if tool_name(row.name) == name])
        session = Session(principal=context.principal, source="mcp")
        return Tools([_tool(row) for row in sorted(rows, key=lambda row: row.name) if _may(row, context, session)])

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None or (self._app.done() and self._app.exception() is not None):
            self._app = asyncio.create_task(self._start())
        try:
            app = await asyncio.shield(self._app)
        except UnsupportedError as error:
            from ksi.transport.http.exchange import Exchange  # here: HTTP is loaded behind the first answer

            await Exchange(scope, receive, send).fail(error)
            return
        await app(scope, receive, send)

    async def _start(self) -> McpApp:
        """In a thread, for the package alone takes a second; run by a task that ends with this generation."""
        app = await asyncio.to_thread(_loaded, self.host.services.get(Router))
        self.host.spawn(app.run())
        await app.started.wait()
        return app


def _loaded(router: Router) -> McpApp:
    try:
        from ksi.plugins.mcp.http import McpApp  # an extra, and slow to load
    except ImportError:
        raise UnsupportedError("MCP needs more: pip install 'ksi[mcp]'") from None
    return McpApp(router)


def _is_tool(row: Row) -> bool:
    return bool(row.handlers) and (row.is_recorded or not row.is_stream)


def _may(row: Row, context: EventContext, session: Session) -> bool:
    if row.stack.permission is None:
        return True
    try:
        row.stack.permission(context.envelope, session)
    except PermissionDeniedError:
        return False
    return True


def _tool(row: Row) -> Tool:
    spec = row.spec
    schema = {"type": "object", **rooted(spec.payload.schema())}
    return Tool(tool_name(spec.name), spec.name, spec.doc or spec.name, schema, row.is_stream)
