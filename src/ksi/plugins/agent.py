"""Agents: a name, instructions and a conversation of their own; each message to one is a turn that a model answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ksi.core.errors import ConflictError, InterruptedRunError, NotFoundError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.ports import EventLog
from ksi.core.views import JsonState, View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.usage import NOTHING, added, used
from ksi.providers.base import Usage

CATEGORY, TURN = "agent", "turn"
SEND_MESSAGE = "agent:send_message"
MAX_TOKENS = 256
AgentName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^/@*?\s]+$")]
Status = Literal["idle", "terminated"]


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@fact("agent:spawned")
class AgentSpawned(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    conversation: str
    system: str | None
    model: str | None
    provider: str | None


@fact("agent:answered")
class AgentAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """A turn was answered by ``completion``; ``sender`` is who spoke to it, where that was said."""

    agent: str
    completion: str
    sender: str | None
    usage: Usage


@fact("agent:terminated")
class AgentTerminated(msgspec.Struct, frozen=True, kw_only=True):
    agent: str


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. ``spawns`` counts how often its name was given; tokens are those of all its turns."""

    agent: str
    conversation: str
    system: str | None
    model: str | None
    provider: str | None
    status: Status = "idle"
    spawns: int = 1
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    updated_at: datetime


class AgentsView(View[AgentRecord]):
    name = "agents"
    query = (Filter(names=("agent:spawned", "agent:answered", "agent:terminated")),)
    record = AgentRecord
    key = ("agent",)
    indexes: ClassVar = {"by_status": ("status",)}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        agent: AgentRecord | None = writer.get(event.stream.removeprefix(f"{CATEGORY}/"))
        writer.put(changed(agent, event))


def changed(agent: AgentRecord | None, event: RecordedEvent) -> AgentRecord:
    """``agent`` after one of its facts."""
    if event.name == "agent:spawned":
        spawned = event.into(AgentSpawned)
        return AgentRecord(
            agent=spawned.agent,
            conversation=spawned.conversation,
            system=spawned.system,
            model=spawned.model,
            provider=spawned.provider,
            spawns=1 if agent is None else agent.spawns + 1,
            updated_at=event.recorded_at,
        )
    assert agent is not None  # nobody else writes facts of one that was not spawned
    if event.name == "agent:terminated":
        return msgspec.structs.replace(agent, status="terminated", updated_at=event.recorded_at)
    usage = event.into(AgentAnswered).usage
    return msgspec.structs.replace(
        agent,
        turns=agent.turns + 1,
        input_tokens=agent.input_tokens + usage.input_tokens,
        output_tokens=agent.output_tokens + usage.output_tokens,
        updated_at=event.recorded_at,
    )


class AgentFold(JsonState[AgentRecord | None]):
    """Implements :class:`ksi.core.views.EntityFold`."""

    category = CATEGORY
    state = AgentRecord | None

    def initial(self) -> AgentRecord | None:
        return None

    def apply(self, state: AgentRecord | None, event: RecordedEvent) -> AgentRecord | None:
        return changed(state, event)


# ── requests and answers ─────────────────────────────────────────────────────────────────────────────────────────────
class SendMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``from`` says who speaks, where that is worth knowing: another agent's name, for example."""

    agent: AgentName
    text: Annotated[str, Meta(min_length=1)]
    sender: str | None = msgspec.field(default=None, name="from")
    max_tokens: Annotated[int, Meta(ge=1)] = MAX_TOKENS


class Text(msgspec.Struct, frozen=True):
    """A chunk: the next piece of the agent's answer."""

    text: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's answer, with the facts of the completion that gave it. ``usage`` is that of all its calls."""

    agent: str
    run: str
    completion: str | None
    conversation: str
    text: str
    finish_reason: str
    usage: Usage
    model: str | None
    provider: str | None


class Agents(msgspec.Struct, frozen=True):
    agents: list[AgentRecord]
    next: str | None


class Agent(AsyncPlugin):
    """Agents that answer messages. Each turn is a completion in the agent's own conversation."""

    name = "agent"
    views = (AgentsView,)
    folds = (AgentFold(),)

    @event(
        "agent:spawn",
        key=lambda request: f"agent/{request.agent}",
        errors=("conflict",),
        examples=({"agent": "poet", "system": "You answer in verse."},),
    )
    async def spawn(
        self,
        agent: AgentName,
        context: EventContext,
        system: str | None = None,
        model: str | None = None,
        provider: str | None = None,
    ) -> AgentRecord:
        """Give an agent a name and its instructions. One that was terminated begins with a new conversation."""
        before = await context.view(AgentsView).get(agent)
        if before is not None and before.status != "terminated":
            raise ConflictError(f"there is an agent {agent!r} already", agent=agent)
        spawns = 1 if before is None else before.spawns + 1
        conversation = f"agent-{agent}" if spawns == 1 else f"agent-{agent}-{spawns}"
        spawned = AgentSpawned(agent=agent, conversation=conversation, system=system, model=model, provider=provider)
        context.append(f"{CATEGORY}/{agent}", spawned)
        return AgentRecord(
            agent=agent,
            conversation=conversation,
            system=system,
            model=model,
            provider=provider,
            spawns=spawns,
            updated_at=context.now(),
        )

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
        errors=("not_found", "overloaded", "cancelled", "provider_error"),
        examples=({"agent": "poet", "text": "What is the sea?"},),
    )
    async def send_message(self, request: SendMessage, context: EventContext) -> AsyncIterator[Text | End[Turn]]:
        """Say something to an agent; its answer comes token by token.

        After a crash the turn goes on by itself, behind the last token: nothing is paid for twice.
        """
        agent = await _running(context, request.agent)
        turn = _Turn(context, agent, request)
        try:
            async with aclosing(turn.texts()) as texts:
                async for text in texts:
                    yield Text(text)
        except asyncio.CancelledError:
            await turn.stopped()  # what there is of the answer is the end value
        yield End(turn.ended())

    @event("agent:terminate", key=lambda request: f"agent/{request.agent}", errors=("not_found",))
    async def terminate(self, agent: AgentName, context: EventContext) -> AgentRecord:
        """End an agent: the turns that it is in are cancelled, and it takes no more."""
        record = await _running(context, agent)
        context.append(f"{CATEGORY}/{agent}", AgentTerminated(agent=agent))
        for execution in list(self.host.services.get(Router).running.values()):
            if execution.row.name == SEND_MESSAGE and execution.payload.agent == agent:
                execution.abort()
        return msgspec.structs.replace(record, status="terminated")


class _Turn:
    """One message to an agent, and its answer.

    After a crash it runs again: it meets the completions that it had asked for, with their chunks, and says all that it
    had said, which the router keeps to itself; what was cut off is gone on with by one more resume.
    """

    def __init__(self, context: EventContext, agent: AgentRecord, request: SendMessage) -> None:
        self._context = context
        self._agent = agent
        self._request = request
        self._said: list[str] = []
        self._answer: dict[str, Any] = {}
        self._usage = NOTHING
        self._cut_off = 0

    async def texts(self) -> AsyncGenerator[str, None]:
        """The pieces of the answer."""
        completion = self._asked()
        while not self._answer:
            try:
                async with aclosing(completion) as items:
                    async for item in items:
                        if isinstance(item, End):
                            self._end(item.answer)
                        else:
                            self._said.append(item["text"])
                            yield item["text"]
            except InterruptedRunError:  # only by an earlier crash, so not more often than the turn was run again
                completion = self._context.stream("completion:resume", run=str(await self._count_cut_off()))

    def _asked(self) -> AsyncGenerator[Any, None]:
        asked = {
            "prompt": self._request.text,
            "conversation": self._agent.conversation,
            "system": self._agent.system,
            "model": self._agent.model,
            "provider": self._agent.provider,
            "max_tokens": self._request.max_tokens,
            "agent": self._agent.agent,
        }
        return self._context.stream("completion:create", asked)

    def _end(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self._usage = added(self._usage, msgspec.convert(answer["usage"], Usage))
        answered = AgentAnswered(
            agent=self._agent.agent,
            completion=answer["completion"],
            sender=self._request.sender,
            usage=self._usage,
        )
        self._context.append(f"{CATEGORY}/{self._agent.agent}", answered)

    async def stopped(self) -> None:
        """It was cancelled, and with it its completion: what that has used counts."""
        asked = await self._completions()
        if not self._answer and len(asked) > self._cut_off:
            await self._count(asked[self._cut_off])

    async def _count_cut_off(self) -> UUID:
        """Count what the completion that a crash cut off has used; the answer is the one to go on with."""
        asked = await self._completions()
        if len(asked) <= self._cut_off:
            raise NotFoundError("completion of turn", self._context.event_id)
        await self._count(asked[self._cut_off])
        self._cut_off += 1
        return asked[0]

    async def _count(self, completion: UUID) -> None:
        services = self._context.services
        usage = await used(completion, services.get(Router), services.get(EventLog))
        self._usage = added(self._usage, usage)

    async def _completions(self) -> list[UUID]:
        """Those that this turn has asked for, also in earlier lives, in order."""
        own = UUID(bytes=self._context.envelope.event_id)
        query = (Filter(names=("completion:create", "completion:resume"), kinds=("request",), causation_id=own),)
        return [request.event_id async for request in self._context.services.get(EventLog).read_all(query)]

    def ended(self) -> Turn:
        """The end value, also of a turn that was cancelled."""
        answer = self._answer
        return Turn(
            agent=self._agent.agent,
            run=self._context.correlation_id,
            completion=answer.get("completion"),
            conversation=self._agent.conversation,
            text="".join(self._said),
            finish_reason=answer.get("finish_reason", "cancelled"),
            usage=self._usage,
            model=answer.get("model"),
            provider=answer.get("provider"),
        )


async def _running(context: EventContext, agent: str) -> AgentRecord:
    """The agent. Raises NotFoundError where there is none, or no more."""
    record = await context.view(AgentsView).get(agent)
    if record is None or record.status == "terminated":
        raise NotFoundError("agent", agent)
    return record
