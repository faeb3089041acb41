"""What stands in a composition's file, and what comes of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][\w.-]*$")]
Word = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]*$", max_length=100)]
Value = str | int | float | bool
Kind = Literal["agent", "prompt"]


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that a text leaves open, ``{{name}}``. Without a default it must be given."""

    default: Value | None = None
    description: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``budget:set`` takes; ``cost`` in dollars."""

    tokens: Annotated[int, Meta(ge=0)] | None = None
    cost: Annotated[float, Meta(ge=0)] | None = None
    period: Literal["total", "day"] = "total"


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A composition that is words only: for others to extend or mix in."""

    kind: Kind = "agent"
    description: str = ""
    extends: Name | None = None
    mixins: tuple[Name, ...] = ()
    variables: dict[Word, Any] = {}
    prompt: str | None = None


class Profile(Prompt, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A composition that says all of an agent, as ``agent:spawn`` takes it."""

    model: str | None = None
    provider: str | None = None
    failover: tuple[str, ...] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    tools: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    max_steps: Annotated[int, Meta(ge=1, le=100)] | None = None
    ask_timeout: Annotated[float, Meta(gt=0)] | None = None
    restarts: Annotated[int, Meta(ge=0)] | None = None
    when_full: Literal["fail", "trim", "summarise"] | None = None
    window: Annotated[int, Meta(ge=1)] | None = None
    response_schema: dict[str, Any] | None = None
    permission: str | None = None
    budget: Budget | None = None


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """A composition with all that it is made of, ``parts`` in order; variables have their values."""

    name: str
    kind: Kind
    description: str
    parts: tuple[str, ...]
    variables: dict[str, Value]
    prompt: str | None = None
    model: str | None = None
    provider: str | None = None
    failover: tuple[str, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    tools: tuple[str, ...] = ()
    max_steps: int | None = None
    ask_timeout: float | None = None
    restarts: int | None = None
    when_full: Literal["fail", "trim", "summarise"] | None = None
    window: Annotated[int, Meta(ge=1)] | None = None
    response_schema: dict[str, Any] | None = None
    permission: str | None = None
    budget: Budget | None = None


class ShownVariable(msgspec.Struct, frozen=True, kw_only=True):
    """``default`` null: it must be given."""

    name: str
    default: Value | None
    description: str


class Problem(msgspec.Struct, frozen=True):
    """What is wrong in a file, and where, from 1."""

    file: str
    line: int
    column: int
    message: str


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A composition in a list. Of one that can not be read only its problem is known."""

    name: str
    kind: Kind
    description: str
    source: Literal["home", "shipped"]
    problem: Problem | None


class Compositions(msgspec.Struct, frozen=True):
    compositions: list[Listed]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A composition as it is written, and the variables that it takes, those of its parts included."""

    name: str
    kind: Kind
    description: str
    source: Literal["home", "shipped"]
    file: str
    text: str
    parts: tuple[str, ...]
    variables: list[ShownVariable]


class Checked(msgspec.Struct, frozen=True):
    """``files`` were looked at; where nothing is wrong with them there are no problems."""

    files: int
    problems: list[Problem]
