"""The events of agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core.errors import ConflictError, NotFoundError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.agent.shapes import Agents, SendMessage, Spawn, Text, Turn
from ksi.plugins.agent.spawning import spawned_by
from ksi.plugins.agent.turn import SEND_MESSAGE, Answering
from ksi.plugins.agent.view import (
    CATEGORY,
    AgentFold,
    AgentName,
    AgentRecord,
    AgentsView,
    AgentTerminated,
    Status,
    record_of,
)

TURN = "turn"


def _stream_of(request: Any) -> str:
    return f"{CATEGORY}/{request.agent}"


class Agent(AsyncPlugin):
    """Agents that answer messages. Each turn is a completion in the agent's own conversation."""

    name = "agent"
    views = (AgentsView,)
    folds = (AgentFold(),)

    @event(
        "agent:spawn",
        key=lambda request: f"agent/{request.agent}",
        errors=("conflict", "not_found", "composition_error", "unknown_event", "permission_denied"),
        examples=(
            {"agent": "poet", "system": "You answer in verse."},
            {"agent": "ada", "profile": "writer", "variables": {"tone": "dry"}},
            {"agent": "clerk", "tools": ["state:get", "message:publish"]},
        ),
    )
    async def spawn(self, request: Spawn, context: EventContext) -> AgentRecord:
        """Give an agent a name, its instructions and its tools. One that was terminated has a new conversation."""
        agent = request.agent
        before = await context.view(AgentsView).get(agent)
        if before is not None and before.status != "terminated":
            raise ConflictError(f"there is an agent {agent!r} already", agent=agent)
        spawns = 1 if before is None else before.spawns + 1
        conversation = f"agent-{agent}" if spawns == 1 else f"agent-{agent}-{spawns}"
        spawned = await spawned_by(request, context, conversation=conversation, before=before)
        context.append(f"{CATEGORY}/{agent}", spawned)
        return record_of(spawned, before, context.now())

    @query("agent:list", examples=({"status": "idle"},))
    async def list_agents(
        self,
        context: EventContext,
        status: Status | None = None,
        limit: Annotated[int, Meta(ge=1, le=1000)] = 100,
        after: str | None = None,
    ) -> Agents:
        """List agents by name."""
        view = context.view(AgentsView)
        page = await (
            view.scan(after=after, limit=limit)
            if status is None
            else view.scan("by_status", status, after=after, limit=limit)
        )
        return Agents(list(page.records), page.next)

    @stream(
        SEND_MESSAGE,
        category=TURN,
        on_crash="rerun",
        belongs_to=_stream_of,
        errors=("not_found", "conflict", "overloaded", "cancelled", "provider_error"),
        examples=({"agent": "poet", "text": "What is the sea?"},),
    )
    async def send_message(self, request: SendMessage, context: EventContext) -> AsyncIterator[Text | End[Turn]]:
        """Say something to an agent; its answer comes token by token.

        After a crash the turn goes on by itself, behind the last token: nothing is paid for twice.
        """
        agent = await _running(context, request.agent)
        turn = Answering(context, agent, request)
        try:
            async with aclosing(turn.texts()) as texts:
                async for text in texts:
                    yield Text(text)
        except asyncio.CancelledError:
            await turn.stopped()  # what there is of the answer is the end value
        yield End(turn.ended())

    @event(
        "agent:terminate",
        key=lambda request: f"agent/{request.agent}",
        belongs_to=_stream_of,
        errors=("not_found", "conflict"),
    )
    async def terminate(self, agent: AgentName, context: EventContext) -> AgentRecord:
        """End an agent: the turns that it is in are cancelled, and it takes no more."""
        record = await _running(context, agent)
        context.append(f"{CATEGORY}/{agent}", AgentTerminated(agent=agent))
        for execution in list(self.host.services.get(Router).running.values()):
            if execution.row.name == SEND_MESSAGE and execution.payload.agent == agent:
                execution.abort()
        return msgspec.structs.replace(record, status="terminated")


async def _running(context: EventContext, agent: str) -> AgentRecord:
    """The agent. Raises NotFoundError where there is none, or no more."""
    record = await context.view(AgentsView).get(agent)
    if record is None or record.status == "terminated":
        raise NotFoundError("agent", agent)
    return record
