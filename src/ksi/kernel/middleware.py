"""Middleware: what happens around every handler, composed once for each event.

Three kinds. ``before`` checks are plain and cheap: they may refuse (raise), never change the envelope. ``after`` looks
at what came out, after the answer has gone. An onion, ``async def (envelope, call_next)``, wraps the handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import DeclarationError, KSIError
from ksi.core.patterns import matches
from ksi.kernel.door import Session
from ksi.kernel.spec import EventSpec

Stage = Literal["identity", "permission", "admission", "validate", "before", "handle", "after"]
STAGES: tuple[Stage, ...] = ("identity", "permission", "admission", "validate", "before", "handle", "after")
Check = Callable[[EventEnvelope, Session], Any]
"""Raises to refuse. At the stage ``permission`` it answers the rule that allows, elsewhere None; or Parked."""
Look = Callable[[EventEnvelope, KSIError | None], None]
Next = Callable[[EventEnvelope], Awaitable[Any]]
Onion = Callable[[EventEnvelope, Next], Awaitable[Any]]


class Parked(msgspec.Struct, frozen=True):
    """Answered by a check: keep the request until ``resume``; ``reason`` is shown to those who wait."""

    reason: str


class Middleware(msgspec.Struct, frozen=True, kw_only=True):
    """One piece. Exactly one of ``bind``, ``after`` and ``around``.

    ``bind(spec)`` is called once for each event and gives its check, or None where it has nothing to say: what can be
    decided at registration costs nothing at run time.
    """

    name: str
    stage: Stage = "before"
    pattern: str = "*"
    order: int = 0
    bind: Callable[[EventSpec], Check | None] | None = None
    after: Look | None = None
    around: Onion | None = None
    door_only: bool = False
    """Only for requests from outside: nested ones are admitted already."""


class Stack(msgspec.Struct, frozen=True):
    """All that concerns one event. ``identity`` runs before ``permission``, the others after it."""

    identity: tuple[Check, ...]
    door: tuple[Check, ...]
    inner: tuple[Check, ...]
    permission: Check | None
    after: tuple[Look, ...]
    onions: tuple[Onion, ...]

    @property
    def steps(self) -> tuple[Check, Check]:
        """What a request from outside passes, as two calls: all but the last check, and the last.

        The first answers the rule that allows, either of them Parked.
        """
        last = self.door[-1] if self.door else _nothing
        if not self.identity and len(self.door) < 2:
            return self.permission or _nothing, last
        identity, permission, door = self.identity, self.permission, self.door[:-1]

        def first(envelope: EventEnvelope, session: Session) -> Any:
            for check in identity:
                check(envelope, session)
            rule = None if permission is None else permission(envelope, session)
            for check in door:
                if (parked := check(envelope, session)) is not None:
                    return parked
            return rule

        return first, last


class EventMiddleware:
    """All middleware of a router, in order of stage, then ``order``, then addition."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Middleware, str]] = []

    def use(self, middleware: Middleware | Onion, *, owner: str = "daemon") -> None:
        """Add a piece; a bare ``async def (envelope, call_next)`` is an onion around every handler."""
        if not isinstance(middleware, Middleware):
            name = getattr(middleware, "__qualname__", "onion")
            middleware = Middleware(name=name, stage="handle", around=middleware)
        if sum(part is not None for part in (middleware.bind, middleware.after, middleware.around)) != 1:
            raise DeclarationError(f"middleware {middleware.name!r}: give one of bind, after, around")
        self._pieces.append((middleware, owner))
        self._pieces.sort(key=lambda piece: (STAGES.index(piece[0].stage), piece[0].order))

    def withdraw(self, owner: str) -> None:
        self._pieces = [piece for piece in self._pieces if piece[1] != owner]

    def pieces_for(self, spec: EventSpec) -> list[Middleware]:
        """The pieces whose pattern matches, in the order in which they run."""
        return [piece for piece, _ in self._pieces if matches(piece.pattern, spec.name)]

    def compose(self, spec: EventSpec) -> Stack:
        """What concerns this event."""
        pieces = self.pieces_for(spec)
        checks = [(piece, check) for piece in pieces if piece.bind and (check := piece.bind(spec)) is not None]
        others = [(piece, check) for piece, check in checks if piece.stage not in ("identity", "permission")]
        return Stack(
            identity=tuple(check for piece, check in checks if piece.stage == "identity"),
            door=tuple(check for _, check in others),
            inner=tuple(check for piece, check in others if not piece.door_only),
            permission=all_of([check for piece, check in checks if piece.stage == "permission"]),
            after=tuple(piece.after for piece in pieces if piece.after is not None),
            onions=tuple(piece.around for piece in pieces if piece.around is not None),
        )


class EventPipeline:
    """The stages of one event, for those who want to see them: ``validate``, ``before``, ``handle``, ``after``."""

    def __init__(self, middleware: EventMiddleware) -> None:
        self._middleware = middleware

    def stages(self, spec: EventSpec) -> dict[Stage, list[str]]:
        """Names of the middleware at each stage, in the order in which it runs."""
        pieces = self._middleware.pieces_for(spec)
        return {stage: [piece.name for piece in pieces if piece.stage == stage] for stage in STAGES}


def _nothing(envelope: EventEnvelope, session: Session) -> None:
    """The check of who has none."""


def all_of(checks: Sequence[Check]) -> Check | None:
    """One permission out of several, all of which must allow; its rule names theirs."""
    if len(checks) < 2:
        return next(iter(checks), None)

    def check_all(envelope: EventEnvelope, session: Session) -> Any:
        rules = [check(envelope, session) for check in checks]
        asked = next((rule for rule in rules if isinstance(rule, Parked)), None)
        return asked or " & ".join(filter(None, rules))

    return check_all


def wrap(onions: tuple[Onion, ...], handler: Next) -> Next:
    """``handler`` inside its onions, the first one outermost."""
    for onion in reversed(onions):
        handler = _layer(onion, handler)
    return handler


def _layer(onion: Onion, inner: Next) -> Next:
    async def layered(envelope: EventEnvelope) -> Any:
        return await onion(envelope, inner)

    return layered
