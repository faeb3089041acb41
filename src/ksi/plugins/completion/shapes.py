"""What the events of completions take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ksi.providers.base import AnyPart, Capabilities, Message, TextPart, Tool, ToolCallPart, Usage
from ksi.providers.prices import Price

MAX_TOKENS = 256
Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/@*?\s]+$")]
RunName = Annotated[str, Meta(min_length=1, description="run or completion: its id, the beginning of it, or last")]
WhenFull = Literal["fail", "trim", "summarise"]
Status = Literal["queued", "running", "done", "cancelled", "interrupted", "failed"]


class GivenMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message: ``text``, or ``parts`` for what is more than text."""

    role: Literal["system", "user", "assistant", "tool"] = "user"
    text: str | None = None
    parts: tuple[AnyPart, ...] = ()

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.parts):
            raise ValueError("a message has either text or parts")

    def message(self) -> Message:
        return Message(role=self.role, parts=self.parts if self.text is None else (TextPart(text=self.text),))


class CreateCompletion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked: ``prompt``, or ``messages``. With ``conversation`` they go on with what was said there.

    ``max_tokens``: else 256, or what a budget leaves.
    ``system`` is what the model is told first, this time. ``priority``: higher goes first among those who wait for the
    provider; a conversation keeps its order. ``agent`` is whose budget it counts for, too. ``tools`` are those that the
    model may ask for; ``response_schema`` is the JSON schema of its answer. ``failover`` names who is asked in turn
    where the provider can not answer, as ``provider`` or ``provider/model``: without it those of the configuration,
    where no ``provider`` is named. ``when_full`` says what becomes of a conversation that has outgrown the model's
    window: it fails, its oldest turns are left out, or summed up; ``window``: tokens, where the provider does not say.
    """

    prompt: str | None = None
    messages: tuple[GivenMessage, ...] = ()
    model: str | None = None
    provider: str | None = None
    conversation: Name | None = None
    system: str | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    priority: int | None = None
    agent: Name | None = None
    tools: tuple[Tool, ...] = ()
    response_schema: dict[str, Any] | None = None
    failover: tuple[str, ...] | None = None
    when_full: WhenFull = "fail"
    window: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either a prompt or messages")

    @property
    def output_tokens(self) -> int:
        """How many it may write where no budget says less."""
        return self.max_tokens or MAX_TOKENS

    def new_messages(self) -> tuple[Message, ...]:
        if self.prompt is not None:
            return (Message(role="user", parts=(TextPart(text=self.prompt),)),)
        return tuple(given.message() for given in self.messages)


class Text(msgspec.Struct, frozen=True):
    """A chunk: the next piece of the answer."""

    text: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How a completion ended. ``text`` is all of it, also what was there before a resume; ``usage`` is this call's.

    ``tool_calls`` are what the model asks for: it goes on when it is told what they gave. ``cost`` is in dollars, by
    ``price``, which is in micro-dollars for a million tokens; null where nobody knows it.
    """

    run: str
    completion: str
    text: str
    finish_reason: str
    usage: Usage
    model: str
    provider: str
    model_sha256: str | None
    conversation: str | None
    duration_ms: float
    first_token_ms: float | None
    resumed_from: str | None = None
    tool_calls: tuple[ToolCallPart, ...] = ()
    cost: float | None = None
    price: Price | None = None


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancel found: ``status`` is ``done`` where the answer was faster. ``usage`` is estimated after a stop."""

    run: str
    completion: str
    status: Status
    text: str
    usage: Usage | None


class ShownCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A completion in a list. ``text``, only where one was asked for, is the answer with all that went on with it."""

    completion: str
    run: str
    status: Status
    provider: str | None = None
    model: str | None = None
    conversation: str | None = None
    resumes: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    duration_ms: float | None = None
    text: str | None = None


class CompletionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``completions``: the newest last; ``next`` goes into ``after``, for those before them."""

    running: int
    queued: int
    completions: list[ShownCompletion]
    next: str | None = None


class OfferedModel(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    provider: str
    sha256: str | None
    context_window: int | None
    capabilities: Capabilities


class OfferedModels(msgspec.Struct, frozen=True):
    """``default`` is the provider that answers where a request names none."""

    models: list[OfferedModel]
    default: str
