"""The tools of agents: events, and tools of servers of MCP, that its model may ask for with its own rights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from ksi.codegen.tools import rooted, tool_name
from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    EventTimeoutError,
    KSIError,
    PermissionDeniedError,
    ReplayError,
    ShuttingDownError,
    UnknownEventError,
    ValidationError,
)
from ksi.kernel.context import EventContext
from ksi.kernel.door import Session
from ksi.kernel.middleware import Parked
from ksi.kernel.router import Router
from ksi.kernel.spec import EventSpec
from ksi.kernel.table import Row
from ksi.plugins.agent.view import AgentRecord, principal_of
from ksi.providers.base import Tool, ToolCallPart, ToolResultPart

RESULT_BYTES_MAX = 32 << 10
"""Of what a tool gave, so much is told to the model."""
TOOLS_MAX = 128
"""Of an agent: more than that no provider takes."""
LIST, CALL = "mcp:list", "mcp:call"
"""Events of the plugin that has the servers of MCP."""
DAEMON = "daemon"
_NOT_ITS_OWN = (ShuttingDownError, ReplayError)
"""Errors that end the turn, and say nothing of the tool."""


# ── which ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def is_of_server(tool: str) -> bool:
    """Whether it is a tool of a server of MCP, ``mcp:SERVER/TOOL``, and no event."""
    return tool.startswith("mcp:") and "/" in tool


async def expanded(context: EventContext, agent: str, tools: Sequence[str]) -> tuple[str, ...]:
    """``tools``, in place of patterns the names that fit: ``mcp:files/*`` is all that a server has.

    Raises:
        NotFoundError: There is no such server, or no such tool of it.
        ToolServerError: It does not say which tools it has.
    """
    own = [tool for tool in tools if not is_of_server(tool)]
    found = await _listed(context, agent, [tool for tool in tools if is_of_server(tool)])
    return (*own, *(each["name"] for each in found))


async def _listed(context: EventContext, agent: str, tools: Sequence[str]) -> list[dict[str, Any]]:
    """What servers say of ``tools``, over the agent's own connections."""
    if not tools:
        return []
    asked = {"tools": list(tools), "principal": principal_of(agent)}
    found: list[dict[str, Any]] = (await context.request_as(DAEMON, LIST, asked, step="tools"))["tools"]
    return found


def check_tools(agent: str, tools: Sequence[str], context: EventContext) -> None:
    """Refuse tools that ``agent`` can not be given.

    Raises:
        UnknownEventError: There is no such event.
        PermissionDeniedError: Who gives it may not ask for it; or only after asking, and the agent would not have to.
        ValidationError: There are too many, or two of them have the same name for a model, or one could be any.
    """
    if CALL in tools:
        raise ValidationError(f"{CALL} is no tool: name those of servers, as in mcp:files/read_file")
    if len(tools) > TOOLS_MAX:
        raise ValidationError(f"{len(tools)} tools, and an agent may have {TOOLS_MAX}: name fewer, mcp:files/read_*")
    router = context.services.get(Router)
    for tool in tools:
        name = CALL if is_of_server(tool) else tool
        row = router.table.get(name)
        if row is None:
            raise router.unknown(name)
        _check_right(row, EventEnvelope.create(name, _payload(tool, {}), "agent"), agent, context)
    if len(set(map(tool_name, tools))) < len(tools):
        raise ValidationError("two tools have the same name for a model")


def _check_right(row: Row, asked: EventEnvelope, agent: str, context: EventContext) -> None:
    permission = row.stack.permission
    if permission is None:
        return
    own, its = (Session(principal=who, source="agent") for who in (context.principal, principal_of(agent)))
    if not isinstance(permission(asked, own), Parked):
        return
    try:
        is_asked = isinstance(permission(asked, its), Parked)
    except PermissionDeniedError:
        return
    if not is_asked:
        rule = f"who must ask for it can not give it to {principal_of(agent)}, who need not"
        raise PermissionDeniedError(row.name, principal=context.principal, rule=rule)


def _payload(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What is asked for where ``tool`` is called."""
    return {"tool": tool, "arguments": arguments} if is_of_server(tool) else arguments


async def offered_tools(context: EventContext, agent: AgentRecord) -> list[Tool]:
    """The agent's tools as a model sees them, of those that there are. It is recorded: a rerun offers the same."""
    if not agent.tools:
        return []
    table = context.services.get(Router).table
    events = [tool for tool in agent.tools if not is_of_server(tool)]
    of_servers = await _listed(context, agent.agent, [tool for tool in agent.tools if is_of_server(tool)])

    async def look() -> list[dict[str, Any]]:
        specs = [table[event].spec for event in events if event in table]
        return [msgspec.to_builtins(_tool(spec)) for spec in specs]

    offered: list[Tool] = await context.observe("agent:tools", {"tools": events}, look, result=list[Tool])
    return [*offered, *map(_tool_of_server, of_servers)]


def _tool(spec: EventSpec) -> Tool:
    return Tool(name=tool_name(spec.name), description=spec.doc, parameters=rooted(spec.payload.schema()))


def _tool_of_server(said: dict[str, Any]) -> Tool:
    return Tool(name=tool_name(said["name"]), description=said["description"], parameters=said["schema"])


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def called(context: EventContext, agent: AgentRecord, call: ToolCallPart, *, step: str) -> ToolResultPart:
    """What a tool call gave; an error of it is a result too."""
    try:
        tool = next((tool for tool in agent.tools if tool_name(tool) == call.name), None)
        if tool is None:
            raise UnknownEventError(call.name, suggestions=list(map(tool_name, agent.tools)))
        event = CALL if is_of_server(tool) else tool
        with _Patience(context, tool, agent.ask_timeout):
            asked = _payload(tool, call.arguments)
            answer = await context.request_as(principal_of(agent.agent), event, asked, step=step)
    except _NOT_ITS_OWN:
        raise
    except KSIError as error:
        return ToolResultPart(id=call.id, content=f"{error.code}: {error.message}", is_error=True)
    told = answer["text"].encode() if event == CALL else canonical.encode(answer)
    return ToolResultPart(id=call.id, content=_shortened(told))


def _shortened(answer: bytes) -> str:
    if len(answer) <= RESULT_BYTES_MAX:
        return answer.decode()
    return f"{answer[:RESULT_BYTES_MAX].decode(errors='ignore')}… (cut: {len(answer)} bytes in all)"


class _Patience:
    """How long a call waits for somebody's word; one that has it takes its own time."""

    def __init__(self, context: EventContext, event: str, seconds: float | None) -> None:
        self._context = context
        self._event = event
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, seconds: float) -> None:
        router = self._context.services.get(Router)
        turn = router.running.get(self._context.envelope.event_id)
        for execution in [] if turn is None else router.parking.below(turn):
            execution.give_up(EventTimeoutError(self._event, seconds=seconds))
