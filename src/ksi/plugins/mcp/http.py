"""MCP over streamable HTTP, in the daemon. Needs the extra ``mcp``."""

from __future__ import annotations

import asyncio

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from ksi.kernel.router import Router
from ksi.plugins.mcp.asking import RouterAsking
from ksi.plugins.mcp.server import Context, McpServer


class McpApp:
    """An ASGI application. No session is kept: each request has its token, and that its rights."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._manager = StreamableHTTPSessionManager(McpServer(self._asking).server, stateless=True)
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled, and once: what it is made of can not be run again."""
        async with self._manager.run():
            self.started.set()
            await asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)

    def _asking(self, context: Context) -> RouterAsking:
        request = context.request
        assert request is not None  # over HTTP there is one
        return RouterAsking(self._router, request.scope["state"]["session"])
