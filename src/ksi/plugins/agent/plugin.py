"""The events of agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from msgspec import Meta

from ksi.core.errors import ConflictError, KSIError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.agent.shapes import Agents, SendMessage, Spawn, Text, Turn
from ksi.plugins.agent.spawning import spawned_by
from ksi.plugins.agent.supervision import Supervision, note_failure, ready
from ksi.plugins.agent.turn import SEND_MESSAGE, Answering
from ksi.plugins.agent.view import (
    CATEGORY,
    AgentFold,
    AgentRecord,
    AgentsView,
    Status,
    record_of,
    stream_of,
)
from ksi.plugins.shapes import MODEL_ERRORS

TURN = "turn"


class Agent(Supervision, AsyncPlugin):
    """Agents that answer messages. Each turn is a completion in the agent's own conversation."""

    name = "agent"
    views = (AgentsView,)
    folds = (AgentFold(),)

    @event(
        "agent:spawn",
        key=stream_of,
        errors=(
            "conflict",
            "not_found",
            "composition_error",
            "unknown_event",
            "permission_denied",
            "tool_server_failed",
        ),
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
        belongs_to=stream_of,
        errors=("not_found", "conflict", "overloaded", "cancelled", "tool_server_failed", *MODEL_ERRORS),
        examples=({"agent": "poet", "text": "What is the sea?"},),
    )
    async def send_message(self, request: SendMessage, context: EventContext) -> AsyncIterator[Text | End[Turn]]:
        """Say something to an agent; its answer comes token by token.

        After a crash the turn goes on by itself, behind the last token: nothing is paid for twice.
        """
        agent = await ready(context, request.agent)
        turn = Answering(context, agent, request)
        try:
            async with aclosing(turn.texts()) as texts:
                async for text in texts:
                    yield Text(text)
        except asyncio.CancelledError:
            await turn.stopped()  # what there is of the answer is the end value
        except KSIError as error:
            await note_failure(context, agent, error)
            raise
        yield End(turn.ended())
