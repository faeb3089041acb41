"""What the events of agents take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.plugins.agent.view import AgentName, AgentRecord, WhenFull
from ksi.providers.base import Tool, ToolCallPart, ToolResultPart, Usage

TOLD_MAX = 1_000
"""Agents that one broadcast reaches."""
Value = str | int | float | bool


class Cap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget, as ``budget:set`` takes it."""

    tokens: Annotated[int, Meta(ge=0)] | None = None
    cost: Annotated[float, Meta(ge=0, description="dollars")] | None = None
    period: Literal["total", "day"] = "total"


class Spawn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent: its name, what it is told first, who answers for it, and what it may do.

    All of it may come from a composition, ``profile``, with ``variables`` filled in; what is said here counts more.
    ``tools`` are events that its model may ask for, and tools of servers of MCP that the configuration names
    (``mcp:files/read_file``; ``mcp:files/read_*`` are those that the server has now). They are asked
    for in the name of ``agent:NAME``, whose rights and budgets count; who spawns it must be allowed to ask for them.
    ``permission`` gives it a profile of rights, none that allows more than who spawns it may do. ``budget`` caps it
    where nobody has capped it yet.
    """

    agent: AgentName
    profile: Annotated[str, Meta(description="as composition:list shows it")] | None = None
    variables: Annotated[dict[str, Value], Meta(description="of the profile")] = {}
    system: str | None = None
    model: str | None = None
    provider: str | None = None
    failover: Annotated[tuple[str, ...], Meta(description="who is asked where that can not answer")] | None = None
    max_tokens: Annotated[int, Meta(ge=1, description="of each answer, where a message says nothing else")] | None = (
        None
    )
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    tools: (
        Annotated[tuple[str, ...], Meta(max_length=64, description="events, as in state:get; or mcp:files/read_*")]
        | None
    ) = None
    max_steps: Annotated[int, Meta(ge=1, le=100, description="how often its model is asked in one turn; 8")] | None = (
        None
    )
    ask_timeout: (
        Annotated[float, Meta(gt=0, description="seconds that a tool call waits for somebody's word")] | None
    ) = None
    restarts: (
        Annotated[int, Meta(ge=0, description="turns that may fail one after another; null: any number")] | None
    ) = None
    when_full: Annotated[WhenFull, Meta(description="when the conversation has outgrown the model's window")] | None = (
        None
    )
    window: Annotated[int, Meta(ge=1, description="tokens, where the provider does not say")] | None = None
    response_schema: Annotated[dict[str, Any], Meta(description="JSON schema of its answers")] | None = None
    permission: Annotated[str, Meta(description="as permission:list_profiles shows it")] | None = None
    budget: Cap | None = None


class SendMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said: ``text``, or ``results`` of the tool calls that the last turn ended with, or both.

    ``tools`` are those of who speaks: where the model asks for one, the turn ends, and goes on with its result.
    ``response_schema`` is the JSON schema of the answer. ``from`` says who speaks, where that is worth knowing: another
    agent's name, for example.
    """

    agent: AgentName
    text: Annotated[str, Meta(min_length=1)] | None = None
    results: tuple[ToolResultPart, ...] = ()
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    response_schema: dict[str, Any] | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    max_tokens: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.text is None and not self.results:
            raise ValueError("say a text, or give results of tools")

    def said(self) -> dict[str, Any]:
        """The same, as a completion takes it."""
        if not self.results:
            return {"prompt": self.text}
        results = [{"role": "tool", "parts": self.results}]
        return {"messages": results if self.text is None else [*results, {"text": self.text}]}


class Text(msgspec.Struct, frozen=True):
    """A chunk: the next piece of the agent's answer."""

    text: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's answer, with the facts of the completion that ended it. ``usage`` is that of all its completions.

    ``cost`` is theirs too, in dollars; null where nobody knows the price of one, or one was cut off.
    ``finish_reason`` is the model's own, or ``max_steps`` where it would have gone on to call tools. ``tool_calls`` are
    for who spoke, whose tools they are. ``structured`` is the value of an answer that had to fit a schema.
    """

    agent: str
    run: str
    completion: str | None
    conversation: str
    text: str
    finish_reason: str
    usage: Usage
    model: str | None
    provider: str | None
    cost: float | None = None
    tool_calls: tuple[ToolCallPart, ...] = ()
    structured: Any = None


class Broadcast(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What many are told. ``from`` is an agent that is told nothing: it has said it."""

    text: Annotated[str, Meta(min_length=1)]
    agents: Annotated[
        tuple[AgentName, ...], Meta(max_length=TOLD_MAX, description="all that are idle where none is named")
    ] = ()
    sender: str | None = msgspec.field(default=None, name="from")
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


class Told(msgspec.Struct, frozen=True):
    """Whom it was said to. Their turns have the same run, and nobody waits for them."""

    agents: list[str]
    run: str


class Agents(msgspec.Struct, frozen=True):
    agents: list[AgentRecord]
    next: str | None
