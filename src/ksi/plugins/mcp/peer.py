"""A connection to a server of MCP: what tools it has, and calls of them. Needs the extra ``mcp``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, CallToolResult, Tool

from ksi.core.config import McpSection
from ksi.core.errors import EventTimeoutError, ToolFailedError, ToolServerError
from ksi.core.threads import settle
from ksi.kernel.foreign import FOREIGN
from ksi.plugins.mcp.child import LINE_BYTES_MAX, Child

IDLE_S = 600.0
"""Seconds without a call after which it is given up; the next call makes another."""
TOOLS_MAX = 1_000
"""Of one server."""


class Peer:
    """One connection. :meth:`run` holds it, in a task of its own: who enters it must leave it."""

    def __init__(self, server: str, section: McpSection, logger: logging.Logger) -> None:
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._section = section
        self._child = Child(server, section, logger=logger, on_end=self.close) if section.command else None
        self._opened: asyncio.Future[Client] = self._loop.create_future()
        self._tools: list[Tool] = []
        self._closed = asyncio.Event()
        self._calls = 0
        self._idle: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Have :meth:`run` end."""
        self.is_over = True
        self._closed.set()

    async def run(self) -> None:
        """Connect, and stay so until it is closed, or has ended, or nobody has called for long."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._section.start_timeout):
                    client = await stack.enter_async_context(Client(self._transport()))
                    self._tools = await _tools_of(client)
                settle(self._opened, client, None)
                await self._closed.wait()
        except TimeoutError:
            self._fail(f"it did not say within {self._section.start_timeout:g} s which tools it has")
        except FOREIGN as error:
            self._fail(self._reason(error))
        finally:
            self.is_over = True
            self._fail("it was closed")
            if self._idle is not None:
                self._idle.cancel()

    async def tools(self) -> list[Tool]:
        """Those that the server had when it was connected. Raises ToolServerError."""
        async with self._client():
            return self._tools

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """What the tool gave; that may be that it failed.

        Raises:
            EventTimeoutError: It took too long. The server is told, and stays.
            ToolFailedError: The server refuses it: no such tool, or no such arguments.
            ToolServerError: It ended meanwhile, or answered what is no result.
        """
        seconds = self._section.timeout
        async with self._client() as client:
            try:
                async with asyncio.timeout(seconds):
                    return await client.call_tool(tool, arguments)
            except TimeoutError:
                raise EventTimeoutError(f"mcp:{self._server}/{tool}", seconds=seconds) from None
            except MCPError as error:
                self._doubt(error)
                if error.code not in (CONNECTION_CLOSED, INVALID_REQUEST):  # the latter: the session is over
                    raise ToolFailedError(error.message, server=self._server, tool=tool) from None
                raise ToolServerError(self._reason(error), server=self._server) from None
            except FOREIGN as error:
                raise ToolServerError(self._reason(error), server=self._server) from None

    def _doubt(self, error: MCPError) -> None:
        """Have the next call connect anew where this connection may be of no use: its server may have begun again.

        A child is kept for all that it knows, and says by its end that it is over.
        """
        if self._child is None or error.code == CONNECTION_CLOSED:
            self.is_over = True

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        """The connection, which is not idle as long as somebody is in here."""
        if self._idle is not None:
            self._idle.cancel()
        self._calls += 1
        try:
            yield await asyncio.shield(self._opened)
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle = self._loop.call_later(0.0 if self.is_over else IDLE_S, self.close)

    def _transport(self) -> Transport:
        return self._child.transport() if self._child else _http(self._section)

    def _fail(self, reason: str) -> None:
        settle(self._opened, None, ToolServerError(reason, server=self._server))
        self._opened.exception()  # nobody need have waited for it

    def _reason(self, error: BaseException) -> str:
        """The innermost of what the package wraps, or what the child said last."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, MCPError) and error.code == CONNECTION_CLOSED:
            return "the connection was closed" if self._child is None else self._child.problem
        return f"{type(error).__name__}: {error}"


class _Bounded(httpx2.AsyncHTTPTransport):
    """Refuses an answer that is too long. The package bounds events of a stream, and nothing else."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        body = httpx2.ByteStream(await _body(response))
        return httpx2.Response(response.status_code, headers=response.headers, stream=body)


async def _body(response: httpx2.Response) -> bytes:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    read = bytearray()
    try:
        async for piece in response.stream:
            read += piece
            if len(read) > LINE_BYTES_MAX:
                raise httpx2.ReadError(f"an answer of more than {LINE_BYTES_MAX} bytes")
    finally:
        await response.aclose()
    return bytes(read)


@asynccontextmanager
async def _http(section: McpSection) -> AsyncIterator[Any]:
    assert section.url is not None
    headers = {name: value.reveal() for name, value in section.headers.items()}
    async with (
        httpx2.AsyncClient(transport=_Bounded(), headers=headers, trust_env=False, timeout=None) as http,
        streamable_http_client(section.url, http_client=http) as streams,
    ):
        yield streams


async def _tools_of(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while len(tools) < TOOLS_MAX:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools[:TOOLS_MAX]
