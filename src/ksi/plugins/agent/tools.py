"""The tools of agents: events that its model may ask for, with the rights of the agent itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from ksi.codegen.tools import rooted, tool_name
from ksi.core import canonical
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
_NOT_ITS_OWN = (ShuttingDownError, ReplayError)
"""Errors that end the turn, and say nothing of the tool."""


# ── which ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_tools(agent: str, tools: Sequence[str], context: EventContext) -> None:
    """Refuse tools that ``agent`` can not be given.

    Raises:
        UnknownEventError: There is no such event.
        PermissionDeniedError: Who gives it may not ask for it; or only after asking, and the agent would not have to.
        ValidationError: Two of them have the same name for a model.
    """
    router = context.services.get(Router)
    for event in tools:
        row = router.table.get(event)
        if row is None:
            raise router.unknown(event)
        _check_right(row, agent, context)
    if len(set(map(tool_name, tools))) < len(tools):
        raise ValidationError("two tools have the same name for a model")


def _check_right(row: Row, agent: str, context: EventContext) -> None:
    permission = row.stack.permission
    if permission is None:
        return
    own, its = (Session(principal=who, source="agent") for who in (context.principal, principal_of(agent)))
    if not isinstance(permission(context.envelope, own), Parked):
        return
    try:
        is_asked = isinstance(permission(context.envelope, its), Parked)
    except PermissionDeniedError:
        return
    if not is_asked:
        rule = f"who must ask for it can not give it to {principal_of(agent)}, who need not"
        raise PermissionDeniedError(row.name, principal=context.principal, rule=rule)


async def offered_tools(context: EventContext, tools: Sequence[str]) -> list[Tool]:
    """``tools`` as a model sees them, of those that there are. It is recorded: a rerun offers the same."""
    if not tools:
        return []
    table = context.services.get(Router).table

    async def look() -> list[dict[str, Any]]:
        specs = [table[event].spec for event in tools if event in table]
        return [msgspec.to_builtins(_tool(spec)) for spec in specs]

    offered: list[Tool] = await context.observe("agent:tools", {"tools": list(tools)}, look, result=list[Tool])
    return offered


def _tool(spec: EventSpec) -> Tool:
    return Tool(name=tool_name(spec.name), description=spec.doc, parameters=rooted(spec.payload.schema()))


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def called(context: EventContext, agent: AgentRecord, call: ToolCallPart, *, step: str) -> ToolResultPart:
    """What a tool call gave; an error of it is a result too."""
    try:
        event = next((event for event in agent.tools if tool_name(event) == call.name), None)
        if event is None:
            raise UnknownEventError(call.name, suggestions=list(map(tool_name, agent.tools)))
        with _Patience(context, event, agent.ask_timeout):
            answer = await context.request_as(principal_of(agent.agent), event, call.arguments, step=step)
    except _NOT_ITS_OWN:
        raise
    except KSIError as error:
        return ToolResultPart(id=call.id, content=f"{error.code}: {error.message}", is_error=True)
    return ToolResultPart(id=call.id, content=_shortened(canonical.encode(answer)))


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
