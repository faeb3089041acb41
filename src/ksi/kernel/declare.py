"""Decorators that declare handlers. They only take notes; registration reads them and says what is wrong.

::

    class Hello(AsyncPlugin):
        name = "hello"

        @query("hello:greet")
        async def greet(self, name: str) -> str: ...

``@event`` is a command, recorded with its facts and outcome; ``@query`` reads; ``@stream`` yields chunks; ``@observer``
sees facts after their commit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Generic, Literal, TypeVar

import msgspec

from ksi.core.envelope import EventEnvelope

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Kind = Literal["command", "query", "stream", "observer"]
Durability = Literal["together", "before", "none"]
OnCrash = Literal["rerun", "unknown", "interrupted"]
PermissionName = str | Callable[[EventEnvelope], str]
TIMEOUT = 60.0
"""Seconds that a handler may take where it declares nothing."""


class End(msgspec.Struct, Generic[T], frozen=True):
    """Yielded last by a stream's handler: its end value."""

    answer: T


class Encoded(msgspec.Struct, frozen=True):
    """The data of an :class:`Addressed` chunk as JSON already, made once for many readers; nobody looks at it again."""

    raw: bytes


class Addressed(msgspec.Struct, frozen=True):
    """Yielded by a stream with ``record=False`` whose chunks have an address of their own (``at``)."""

    at: str
    data: Any


class Opened(msgspec.Struct, frozen=True):
    """Yielded first by a stream with ``record=False``: it gives what comes behind this address."""

    at: str


class Gap(msgspec.Struct, frozen=True):
    """Yielded by a stream with ``record=False``: something was dropped here."""

    info: Mapping[str, Any]


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What a decorator was told. Field for field the decorators' arguments."""

    kind: Kind
    name: str
    durability: Durability
    key: Callable[[Any], str] | None = None
    timeout: float | None = TIMEOUT
    idle_timeout: float | None = None
    concurrent: int | None = None
    queued_max: int = 1024
    inline: bool = False
    blocking: bool = False
    shared: bool = False
    answers: Literal["first", "all"] = "first"
    order: int = 0
    on_crash: OnCrash = "unknown"
    on_disconnect: Literal["cancel", "detach"] = "cancel"
    category: str | None = None
    belongs_to: Callable[[Any], str | None] | None = None
    record: bool = True
    permission: PermissionName | None = None
    breaker: str | None = None
    checkpoint: str | None = None
    errors: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()
    schema_version: int = 1
    scope: Mapping[str, Any] = {}
    """Names of the frames around the declaration, for hints that only they know."""


def event(
    name: str,
    *,
    key: Callable[[Any], str] | None = None,
    durability: Literal["together", "before"] = "together",
    timeout: float | None = TIMEOUT,
    concurrent: int | None = None,
    queued_max: int = 1024,
    inline: bool = False,
    blocking: bool = False,
    shared: bool = False,
    answers: Literal["first", "all"] = "first",
    order: int = 0,
    on_crash: Literal["rerun", "unknown"] = "unknown",
    permission: PermissionName | None = None,
    breaker: str | None = None,
    errors: Sequence[str] = (),
    examples: Sequence[Mapping[str, Any]] = (),
    schema_version: int = 1,
    belongs_to: Callable[[Any], str | None] | None = None,
) -> Callable[[F], F]:
    """Declare a command: an event that may change something. It is on disk, with its facts and outcome, when answered.

    Args:
        name: ``namespace:verb``.
        key: Commands whose payload gives the same key run one after another.
        durability: ``together`` for handlers that only decide; ``before`` for those with effects on the outside world.
        timeout: Seconds it may take; None is no limit of its own.
        concurrent: How many may run at once; up to ``queued_max`` more wait, in the order of their priority.
        inline: A plain ``def`` that never waits and never blocks: called on the loop itself.
        blocking: A plain ``def`` that blocks: run in a thread.
        shared: Other plugins may handle it too; otherwise a second owner of the name is an error.
        answers: With several handlers, the ``first`` answer wins, or ``all`` are given as a list.
        order: Among several handlers that may not run together, lower goes first.
        on_crash: For ``before``: whether running it again after a crash is harmless.
        permission: The name that permission rules see instead of the event's own; a function makes it of the request.
        errors: Codes it may answer with, for the description.
        belongs_to: The stream, ``category/id``, whose subject a command carries by itself.
    """
    return _note(
        Declaration(
            kind="command",
            belongs_to=belongs_to,
            name=name,
            key=key,
            durability=durability,
            timeout=timeout,
            concurrent=concurrent,
            queued_max=queued_max,
            inline=inline,
            blocking=blocking,
            shared=shared,
            answers=answers,
            order=order,
            on_crash=on_crash,
            permission=permission,
            breaker=breaker,
            errors=tuple(errors),
            examples=tuple(examples),
            schema_version=schema_version,
            scope=_scope(),
        )
    )


def query(
    name: str,
    *,
    timeout: float | None = TIMEOUT,
    concurrent: int | None = None,
    queued_max: int = 1024,
    inline: bool = False,
    blocking: bool = False,
    shared: bool = False,
    answers: Literal["first", "all"] = "first",
    order: int = 0,
    permission: str | None = None,
    errors: Sequence[str] = (),
    examples: Sequence[Mapping[str, Any]] = (),
) -> Callable[[F], F]:
    """Declare a query: it reads and changes nothing, so nothing of it is recorded. Arguments as for :func:`event`."""
    return _note(
        Declaration(
            kind="query",
            name=name,
            durability="none",
            timeout=timeout,
            concurrent=concurrent,
            queued_max=queued_max,
            inline=inline,
            blocking=blocking,
            shared=shared,
            answers=answers,
            order=order,
            permission=permission,
            errors=tuple(errors),
            examples=tuple(examples),
            scope=_scope(),
        )
    )


def stream(
    name: str,
    *,
    record: bool = True,
    category: str | None = None,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    concurrent: int | None = None,
    queued_max: int = 1024,
    on_crash: OnCrash = "unknown",
    on_disconnect: Literal["cancel", "detach"] = "cancel",
    permission: str | None = None,
    errors: Sequence[str] = (),
    examples: Sequence[Mapping[str, Any]] = (),
    schema_version: int = 1,
    belongs_to: Callable[[Any], str | None] | None = None,
) -> Callable[[F], F]:
    """Declare a stream: ``async def f(…) -> AsyncIterator[Chunk | End[Answer]]``.

    Each chunk is on disk, in ``category/<event id>``, before anybody sees it; ``End(answer)`` comes last. After a
    cancel the handler may still yield one ``End`` with what it has.

    Args:
        record: False for streams that show what is recorded elsewhere (subscriptions, logs).
        idle_timeout: Seconds that it may take to its first chunk, and between two; those in which it waits for its
            reader do not count.
        category: First part of the name of its chunks' stream; the event's namespace where nothing is said.
        on_crash: What a crash makes of it once it has acted: run again (recorded effects are served),
            ``outcome_unknown``, or ``interrupted``, which an event of the plugin's own may resume.
        on_disconnect: What becomes of it when its reader is gone, and nobody resumes it in ``disconnect_grace``.
        belongs_to: The stream, ``category/id``, whose subject it carries by itself.
    """
    return _note(
        Declaration(
            kind="stream",
            belongs_to=belongs_to,
            name=name,
            record=record,
            category=category,
            durability="before" if record else "none",
            timeout=timeout,
            idle_timeout=idle_timeout,
            concurrent=concurrent,
            queued_max=queued_max,
            on_crash=on_crash,
            on_disconnect=on_disconnect,
            permission=permission,
            errors=tuple(errors),
            examples=tuple(examples),
            schema_version=schema_version,
            scope=_scope(),
        )
    )


def observer(pattern: str, *, checkpoint: str | None = None) -> Callable[[F], F]:
    """Declare an observer of facts, ``async def f(self, event: RecordedEvent, context)``; it never answers.

    It is live. With ``checkpoint`` (a name) it goes on where it stopped, also over restarts, and sees each fact at
    least once; what it emits commits together with the checkpoint.
    """
    return _note(Declaration(kind="observer", name=pattern, durability="none", checkpoint=checkpoint, scope=_scope()))


def declarations(function: Any) -> Sequence[Declaration]:
    """What the decorators noted on ``function``."""
    return getattr(function, "__ksi__", ())


def _note(declaration: Declaration) -> Callable[[F], F]:
    def mark(function: F) -> F:
        function.__ksi__ = (*declarations(function), declaration)  # type: ignore[attr-defined]  # read by declarations()
        return function

    return mark


def _scope() -> dict[str, Any]:
    """Local names around a declaration, innermost first: a plugin may stand inside a function."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # the frame of the one who decorates
    home = frame.f_globals if frame else {}
    names: dict[str, Any] = {}
    while frame is not None and frame.f_globals is home and frame.f_locals is not home:
        names = dict(frame.f_locals) | names
        frame = frame.f_back
    return names
