"""A server of the Model Context Protocol on top of events. Needs the extra ``mcp``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, unquote

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from ksi import __version__
from ksi.core import canonical
from ksi.core.errors import KSIError, NotFoundError
from ksi.kernel.declare import End
from ksi.plugins.mcp.asking import Asking

Context = ServerRequestContext[Any, Any]
LOG, RUN, CONVERSATION = "ksi://log", "ksi://run/", "ksi://conversation/"
PAGE = 200
"""Events that a resource shows, the newest; and conversations in a page."""
JSON = "application/json"


class McpServer:
    """Answers the requests of the protocol, each in the name of who sent it."""

    def __init__(self, asking_of: Callable[[Context], Asking]) -> None:
        self._asking_of = asking_of
        self.server: Server[Any] = Server(
            "ksi",
            version=__version__,
            instructions="Events of KSI are tools; what happened is in the resources.",
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _list_tools(self, context: Context, params: Any) -> types.ListToolsResult:
        found = await _told(self._asking_of(context), "mcp:tools")
        tools = [
            types.Tool(name=tool["name"], description=tool["description"], input_schema=tool["schema"])
            for tool in found["tools"]
        ]
        return types.ListToolsResult(tools=tools)

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """What the event answers; its error is the tool's, which the model is to see."""
        asking = self._asking_of(context)
        found = (await _told(asking, "mcp:tools", name=params.name))["tools"]
        if not found:
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}")
        asked = params.arguments or {}
        try:
            if found[0]["streams"]:
                return _result(await self._streamed(context, asking, found[0]["event"], asked))
            return _result(await asking.ask(found[0]["event"], asked))
        except KSIError as error:
            said = types.TextContent(type="text", text=f"{error.code}: {error.message}")
            return types.CallToolResult(content=[said], is_error=True)

    async def _streamed(self, context: Context, asking: Asking, event: str, asked: dict[str, Any]) -> Any:
        """The end value; each chunk is a sign of progress."""
        answer = None
        async with aclosing(asking.stream(event, asked)) as chunks:
            number = 0
            async for chunk in chunks:
                if isinstance(chunk, End):
                    answer = chunk.answer
                else:
                    number += 1
                    await context.session.report_progress(number, None, _said(chunk))
        return answer

    # ── resources ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _list_resources(self, context: Context, params: Any) -> types.ListResourcesResult:
        after = None if params is None else params.cursor
        page = await _told(self._asking_of(context), "conversation:list", limit=PAGE, after=after)
        spoken = [
            types.Resource(uri=f"{CONVERSATION}{quote(name, safe='')}", name=name, mime_type=JSON)
            for name in (each["conversation"] for each in page["conversations"])
        ]
        log = types.Resource(uri=LOG, name="log", description=f"The last {PAGE} events.", mime_type=JSON)
        return types.ListResourcesResult(resources=spoken if after else [log, *spoken], next_cursor=page["next"])

    async def _list_templates(self, context: Context, params: Any) -> types.ListResourceTemplatesResult:
        templates = [
            types.ResourceTemplate(
                uri_template=f"{RUN}{{run}}", name="run", description="Events of a run.", mime_type=JSON
            ),
            types.ResourceTemplate(
                uri_template=f"{CONVERSATION}{{conversation}}",
                name="conversation",
                description="What was said in a conversation.",
                mime_type=JSON,
            ),
        ]
        return types.ListResourceTemplatesResult(resource_templates=templates)

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        event, asked = _question(uri)
        said = await _told(self._asking_of(context), event, **asked)
        contents = types.TextResourceContents(uri=uri, mime_type=JSON, text=canonical.encode(said).decode())
        return types.ReadResourceResult(contents=[contents])


def _question(uri: str) -> tuple[str, dict[str, Any]]:
    """The query that shows a resource."""
    if uri == LOG:
        return "log:read", {"limit": PAGE, "backwards": True}
    if uri.startswith(RUN):
        return "log:read", {"limit": PAGE, "correlation_id": unquote(uri.removeprefix(RUN))}
    if uri.startswith(CONVERSATION):
        return "conversation:get", {"conversation": unquote(uri.removeprefix(CONVERSATION))}
    raise MCPError(types.INVALID_PARAMS, f"no resource {uri}")


async def _told(asking: Asking, event: str, **fields: Any) -> Any:
    """Raises MCPError with the words of the error: the package hides those of any other."""
    try:
        return await asking.ask(event, {name: value for name, value in fields.items() if value is not None})
    except KSIError as error:
        code = types.INVALID_PARAMS if isinstance(error, NotFoundError) else types.INVALID_REQUEST
        raise MCPError(code, f"{error.code}: {error.message}") from None


def _result(answer: Any) -> types.CallToolResult:
    text = types.TextContent(type="text", text=canonical.encode(answer).decode())
    return types.CallToolResult(content=[text], structured_content=answer if isinstance(answer, dict) else None)


def _said(chunk: Any) -> str:
    return str(chunk["text"]) if isinstance(chunk, dict) and "text" in chunk else canonical.encode(chunk).decode()
