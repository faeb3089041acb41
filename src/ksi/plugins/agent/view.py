"""The facts of agents, in ``agent/<name>``, and what is made of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import JsonState, View, ViewWriter
from ksi.providers.base import Usage

CATEGORY = "agent"
MAX_STEPS = 8
AgentName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^/@*?\s]+$")]
WhenFull = Literal["fail", "trim", "summarise"]
Status = Literal["idle", "paused", "failed", "terminated"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is.

    ``system`` is what its model is told first, ``failover`` who is asked where its provider can not answer;
    ``max_tokens`` and ``temperature`` bound each of its answers. ``tools`` are the events that its model may ask for,
    ``max_steps`` how often the model is asked in one turn, ``ask_timeout`` the seconds that a tool call waits for
    somebody's word (null: until it comes). ``restarts`` is how many turns may fail one after another before it is
    ``failed`` and takes none any more (null: any number). ``when_full`` says what becomes of its conversation
    when that has outgrown the model's window, ``window`` tokens where the provider does not say. ``response_schema`` is
    the JSON schema that its answers fit, where a message brings none of its own.
    """

    system: str | None = None
    model: str | None = None
    provider: str | None = None
    failover: tuple[str, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    tools: tuple[str, ...] = ()
    max_steps: int = MAX_STEPS
    ask_timeout: float | None = None
    restarts: int | None = None
    when_full: WhenFull = "fail"
    window: int | None = None
    response_schema: dict[str, Any] | None = None


@fact("agent:spawned")
class AgentSpawned(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """``profile`` is the composition that it was made of, ``given`` what was said beside it."""

    agent: str
    conversation: str
    profile: str | None = None
    permission: str | None = None
    given: dict[str, Any] = {}


@fact("agent:restarted")
class AgentRestarted(AgentSpawned, frozen=True, kw_only=True, omit_defaults=True):
    """The same name begins again, as it is described now."""


@fact("agent:paused")
class AgentPaused(msgspec.Struct, frozen=True, kw_only=True):
    agent: str


@fact("agent:resumed")
class AgentResumed(msgspec.Struct, frozen=True, kw_only=True):
    agent: str


@fact("agent:failed")
class AgentFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A turn ended in an error, ``code``; ``failures`` have by now, one after another."""

    agent: str
    code: str
    message: str
    failures: int


@fact("agent:called_tool")
class AgentCalledTool(msgspec.Struct, frozen=True, kw_only=True):
    """The model asked for ``tool`` in ``completion``; what it gave stands in the conversation."""

    agent: str
    completion: str
    call: str
    tool: str
    is_error: bool


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


class AgentRecord(Settings, frozen=True, kw_only=True):
    """An agent. ``spawns`` counts how often its name was given; tokens are those of all its turns.

    ``failures``: turns that failed since one was answered; more than ``restarts`` make it ``failed``. ``profile``: the
    composition that it was made of, ``given`` what was said beside it, ``permission`` the profile of its rights.
    """

    agent: str
    conversation: str
    profile: str | None = None
    permission: str | None = None
    given: dict[str, Any] = {}
    status: Status = "idle"
    spawns: int = 1
    failures: int = 0
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tool_calls: int = 0
    updated_at: datetime


class AgentsView(View[AgentRecord]):
    name = "agents"
    query = (Filter(names=("agent:*",)),)
    record = AgentRecord
    version = 6
    key = ("agent",)
    indexes: ClassVar = {"by_status": ("status",)}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        agent: AgentRecord | None = writer.get(event.stream.removeprefix(f"{CATEGORY}/"))
        writer.put(changed(agent, event))


def record_of(spawned: AgentSpawned, before: AgentRecord | None, at: datetime) -> AgentRecord:
    """The agent as it begins."""
    fields = msgspec.structs.asdict(spawned)
    return AgentRecord(**fields, spawns=1 if before is None else before.spawns + 1, updated_at=at)


def changed(agent: AgentRecord | None, event: RecordedEvent) -> AgentRecord:
    """``agent`` after one of its facts."""
    if event.name == "agent:spawned":
        return record_of(event.into(AgentSpawned), agent, event.recorded_at)
    assert agent is not None  # nobody else writes facts of one that was not spawned
    return msgspec.structs.replace(_after(agent, event), updated_at=event.recorded_at)


def _after(agent: AgentRecord, event: RecordedEvent) -> AgentRecord:
    match event.name:
        case "agent:restarted":
            return restarted(agent, event.into(AgentRestarted))
        case "agent:paused":
            return msgspec.structs.replace(agent, status="paused")
        case "agent:resumed":
            return msgspec.structs.replace(agent, status="idle", failures=0)
        case "agent:terminated":
            return msgspec.structs.replace(agent, status="terminated")
        case "agent:called_tool":
            return msgspec.structs.replace(agent, tool_calls=agent.tool_calls + 1)
        case "agent:failed":
            return _failed(agent, event.into(AgentFailed).failures)
        case "agent:answered":
            return _answered(agent, event.into(AgentAnswered).usage)
    return agent


def restarted(agent: AgentRecord, facts: AgentRestarted) -> AgentRecord:
    """The agent as it goes on; what it has done and used counts on."""
    fields = msgspec.structs.asdict(facts)
    return msgspec.structs.replace(agent, **fields, status="idle", failures=0)


def _failed(agent: AgentRecord, failures: int) -> AgentRecord:
    is_over = agent.status == "idle" and agent.restarts is not None and failures > agent.restarts
    return msgspec.structs.replace(agent, failures=failures, status="failed" if is_over else agent.status)


def _answered(agent: AgentRecord, usage: Usage) -> AgentRecord:
    return msgspec.structs.replace(
        agent,
        turns=agent.turns + 1,
        failures=0,
        input_tokens=agent.input_tokens + usage.input_tokens,
        output_tokens=agent.output_tokens + usage.output_tokens,
    )


class AgentFold(JsonState[AgentRecord | None]):
    """Implements :class:`ksi.core.views.EntityFold`."""

    category = CATEGORY
    version = 6
    state = AgentRecord | None

    def initial(self) -> AgentRecord | None:
        return None

    def apply(self, state: AgentRecord | None, event: RecordedEvent) -> AgentRecord | None:
        return changed(state, event)


def stream_of(request: Any) -> str:
    """Of a request that names an agent: where its facts are, and its key."""
    return f"{CATEGORY}/{request.agent}"


def principal_of(agent: str) -> str:
    """In whose name its tools are called."""
    return f"agent:{agent}"
