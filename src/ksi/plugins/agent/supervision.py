"""How agents are held: paused, taken back, begun again, marked as failed, told things together."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import msgspec

from ksi.core.errors import ConflictError, HandlerError, KSIError, NotFoundError, ProviderError, ToolError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.router import Router
from ksi.plugins.agent.shapes import TOLD_MAX, Broadcast, SendMessage, Spawn, Told
from ksi.plugins.agent.spawning import spawned_by
from ksi.plugins.agent.turn import SEND_MESSAGE
from ksi.plugins.agent.view import (
    CATEGORY,
    AgentFailed,
    AgentName,
    AgentPaused,
    AgentRecord,
    AgentRestarted,
    AgentResumed,
    AgentsView,
    AgentTerminated,
    restarted,
    stream_of,
)

if TYPE_CHECKING:
    from ksi.kernel.plugin import Host

ADA = {"agent": "ada"}
ITS_OWN = (ProviderError, HandlerError, ToolError)
"""Errors of a turn that say something of its agent: not those of who asked, of a budget, of the daemon."""


class Supervision:
    """The part of the plugin that deals with it. Each agent is by itself: what befalls one concerns no other."""

    host: Host

    @event("agent:pause", key=stream_of, belongs_to=stream_of, errors=("not_found", "conflict"), examples=(ADA,))
    async def pause(self, agent: AgentName, context: EventContext) -> AgentRecord:
        """Have an agent take no messages. The turns that it is in go on to their end."""
        record = await ready(context, agent)
        context.append(f"{CATEGORY}/{agent}", AgentPaused(agent=agent))
        return msgspec.structs.replace(record, status="paused")

    @event("agent:resume", key=stream_of, belongs_to=stream_of, errors=("not_found",), examples=(ADA,))
    async def resume(self, agent: AgentName, context: EventContext) -> AgentRecord:
        """Have an agent take messages again that was paused, or has failed."""
        record = await living(context, agent)
        context.append(f"{CATEGORY}/{agent}", AgentResumed(agent=agent))
        return msgspec.structs.replace(record, status="idle", failures=0)

    @event(
        "agent:restart",
        key=stream_of,
        belongs_to=stream_of,
        errors=("not_found", "conflict", "composition_error", "permission_denied", "tool_server_failed"),
        examples=(ADA, {"agent": "ada", "fresh": True}),
    )
    async def restart(self, agent: AgentName, context: EventContext, fresh: bool = False) -> AgentRecord:
        """Begin an agent again: its turns are cancelled, and its profile counts as it is written now.

        Its conversation goes on; with `fresh` a new one begins.
        """
        record = await living(context, agent)
        again = await self._again(record, context, fresh=fresh)
        context.append(f"{CATEGORY}/{agent}", again)
        self.stop_turns(agent)
        return restarted(record, again)

    async def _again(self, record: AgentRecord, context: EventContext, *, fresh: bool) -> AgentRestarted:
        conversation = f"agent-{record.agent}-{context.event_id[-12:]}" if fresh else record.conversation
        if record.profile is None:
            kept = {name: getattr(record, name) for name in AgentRestarted.__struct_fields__}
            return AgentRestarted(**kept | {"conversation": conversation})
        request = msgspec.convert(record.given, Spawn)
        described = await spawned_by(request, context, conversation=conversation, before=record)
        return AgentRestarted(**msgspec.structs.asdict(described))

    @event("agent:terminate", key=stream_of, belongs_to=stream_of, errors=("not_found", "conflict"), examples=(ADA,))
    async def terminate(self, agent: AgentName, context: EventContext) -> AgentRecord:
        """End an agent: the turns that it is in are cancelled, and it takes no more."""
        record = await living(context, agent)
        context.append(f"{CATEGORY}/{agent}", AgentTerminated(agent=agent))
        self.stop_turns(agent)
        return msgspec.structs.replace(record, status="terminated")

    @event(
        "agent:broadcast",
        errors=("not_found", "conflict"),
        examples=({"text": "What is new?"}, {"text": "Stop.", "agents": ["ada", "bob"], "from": "eve"}),
    )
    async def broadcast(self, request: Broadcast, context: EventContext) -> Told:
        """Say something to many agents at once. Nobody waits for their turns, which fail each by itself."""
        agents = await self._told(request, context)
        for agent in agents:
            said = SendMessage(agent=agent, text=request.text, sender=request.sender, max_tokens=request.max_tokens)
            context.emit(SEND_MESSAGE, said)
        return Told(agents, context.correlation_id)

    async def _told(self, request: Broadcast, context: EventContext) -> list[str]:
        if request.agents:
            named = [(await ready(context, agent)).agent for agent in dict.fromkeys(request.agents)]
        else:
            page = await context.view(AgentsView).scan("by_status", "idle", limit=TOLD_MAX)
            named = [record.agent for record in page.records]
        return [agent for agent in named if agent != request.sender]

    def stop_turns(self, agent: str) -> None:
        """Cancel what the agent is doing."""
        for execution in list(self.host.services.get(Router).running.values()):
            if execution.row.name == SEND_MESSAGE and execution.payload.agent == agent:
                execution.abort()


async def living(context: EventContext, agent: str) -> AgentRecord:
    """The agent. Raises NotFoundError where there is none, or no more."""
    view = context.view(AgentsView)
    record = await view.get(agent)
    if record is None or record.status == "terminated":
        known = [each.agent for each in (await view.scan("by_status", "idle")).records]
        raise NotFoundError("agent", agent, suggestions=difflib.get_close_matches(agent, known))
    return record


async def ready(context: EventContext, agent: str) -> AgentRecord:
    """The same, where it takes messages. Raises ConflictError where it is paused, or has failed."""
    record = await living(context, agent)
    if record.status != "idle":
        raise ConflictError(f"agent {agent!r} is {record.status}: agent:resume takes it back", agent=agent)
    return record


async def note_failure(context: EventContext, agent: AgentRecord, error: KSIError) -> None:
    """Record that a turn has failed, where that is the agent's affair."""
    if not isinstance(error, ITS_OWN) or context.is_closed:
        return
    now = await context.view(AgentsView).get(agent.agent)
    failures = (now or agent).failures + 1
    failed = AgentFailed(agent=agent.agent, code=error.code, message=error.message, failures=failures)
    context.append(f"{CATEGORY}/{agent.agent}", failed)
    await context.commit()
