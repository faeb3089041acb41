"""Who may ask for what, and how often: enforced on every event, nested ones included.

Profiles come from ``[permission]`` of the configuration, rates from ``[limits]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.clock import Clock
from ksi.core.config import Config, ProfileSection, Settings
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import OverloadedError, PermissionDeniedError
from ksi.core.ports import Tokens
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.door import Session
from ksi.kernel.middleware import Check, Middleware, Parked
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.spec import EventSpec
from ksi.plugins.approvals import Approvals
from ksi.plugins.profiles import DAEMON, Grant, Policy, Word
from ksi.resilience.limiter import RateLimiter, RateLimiters

Principal = Annotated[str | None, Meta(description="as in uid:1000; the one who asks where nothing is said")]


class AllowedTools(msgspec.Struct, frozen=True):
    """Patterns of events, in the words of the original clients: there tools were what profiles were about."""

    allowed: tuple[str, ...]
    disallowed: tuple[str, ...]


class ShownProfile(msgspec.Struct, frozen=True):
    """A profile; its lists are never null."""

    tools: AllowedTools


class Profiles(msgspec.Struct, frozen=True):
    """Profiles by name, and the one that principals without their own have."""

    profiles: dict[str, ShownProfile]
    default_profile: str


class Checked(msgspec.Struct, frozen=True):
    """``rule`` is the line that decided."""

    principal: str
    event: str
    allowed: bool
    profile: str
    rule: str
    verdict: Word


class Rate(msgspec.Struct, frozen=True):
    """Requests a second at the door, and how many at once."""

    rate_per_second: float
    burst: int


class Rights(msgspec.Struct, frozen=True):
    """What a principal may do; ``limits`` is null for the daemon itself."""

    principal: str
    profile: str
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    ask: tuple[str, ...]
    granted: Grant
    limits: Rate | None


class Permission(Approvals, AsyncPlugin):
    """Profiles of event patterns for each principal, and a rate for each."""

    name = "permission"
    is_required = True

    async def initialize(self) -> None:
        services = self.host.services
        settings: Settings = services.get(Config) if services.provider_of(Config) else Settings()
        tokens = services.get(Tokens) if services.provider_of(Tokens) else None
        self._policy = Policy(settings.permission, tokens)
        self._policy.refuse_unknown()
        await self.load_grants()
        self._default_profile = settings.permission.default_profile
        self._rate = Rate(settings.limits.rate_per_second, settings.limits.burst)
        self._monotonic = services.get(Clock).monotonic
        self._limiters = RateLimiters()

    def middleware(self) -> Iterable[Middleware]:
        return (
            Middleware(name="permission", stage="permission", bind=self._permission_of),
            Middleware(name="rate", stage="admission", bind=self._rate_of, door_only=True),
        )

    # ── around every event ───────────────────────────────────────────────────────────────────────────────────────────
    def _permission_of(self, spec: EventSpec) -> Check:
        """The check of one event. What was allowed once is remembered as long as the session lives."""
        policy, event = self._policy, spec.name
        name = spec.declaration.permission or event
        if not isinstance(name, str):
            return self._check_by(name)
        remembered = f"permission {name}"

        def check(envelope: EventEnvelope, session: Session) -> str | Parked:
            known = session.cache.get(remembered)
            if known is not None and known[0] is policy.generation:
                rule: str | Parked = known[1]
                return rule
            rule = self._rule(session, name, event)
            session.cache[remembered] = (policy.generation, rule)
            return rule

        return check

    def _check_by(self, named: Callable[[EventEnvelope], str]) -> Check:
        """Of an event whose requests name themselves. Names that anybody may invent are not remembered."""

        def check(envelope: EventEnvelope, session: Session) -> str | Parked:
            name = named(envelope)
            return self._rule(session, name, name)

        return check

    def _rule(self, session: Session, name: str, event: str) -> str | Parked:
        verdict = self._policy.decide(session.principal, name)
        if verdict.word == "deny":
            raise PermissionDeniedError(event, principal=session.principal, rule=verdict.rule)
        return verdict.rule if verdict.allowed else Parked(verdict.rule)

    def _rate_of(self, spec: EventSpec) -> Check:
        """The check of all events: every request's way, and therefore one function with what it needs at hand."""
        monotonic, limiter_of = self._monotonic, self._limiter_of

        def admit(envelope: EventEnvelope, session: Session) -> None:
            limiter: RateLimiter = session.cache.get("rate") or limiter_of(session)
            if (wait := limiter.admit(monotonic())) and session.principal != DAEMON:
                what = f"the rate of {session.principal}"
                raise OverloadedError(what, limit=limiter.rate_per_second, retry_after=wait)

        return admit

    def _limiter_of(self, session: Session) -> RateLimiter:
        now = self._monotonic()
        limiter = self._limiters.get(session.principal) or self._new_limiter(session.principal, now)
        session.cache["rate"] = limiter
        return limiter

    def _new_limiter(self, principal: str, now: float) -> RateLimiter:
        return self._limiters.add(principal, RateLimiter(self._rate.rate_per_second, self._rate.burst), now)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @query("permission:list_profiles", inline=True, examples=[{}])
    def list_profiles(self) -> Profiles:
        """List the profiles with the event patterns that they allow and deny."""
        profiles = self._policy.profiles.items()
        return Profiles({name: _shown(profile) for name, profile in profiles}, self._default_profile)

    @query("permission:check", inline=True, examples=[{"event": "state:set"}])
    def check_permission(
        self,
        event: Annotated[str, Meta(description="name of an event, as in state:set")],
        context: EventContext,
        principal: Principal = None,
    ) -> Checked:
        """Say whether a principal may ask for an event, and which rule decides."""
        who = principal or context.principal
        verdict = self._policy.decide(who, event)
        return Checked(who, event, verdict.allowed, verdict.profile, verdict.rule, verdict.word)

    @query("permission:show", inline=True, examples=[{}, {"principal": "uid:1000"}])
    def show(self, context: EventContext, principal: Principal = None) -> Rights:
        """Show the profile and the limits of a principal."""
        who = principal or context.principal
        name = self._policy.profile_of(who)
        profile = self._policy.profiles.get(name, ProfileSection())
        limits = None if who == DAEMON else self._rate
        return Rights(who, name, profile.allow, profile.deny, profile.ask, self._policy.granted(who), limits)


def _shown(profile: ProfileSection) -> ShownProfile:
    return ShownProfile(AllowedTools(profile.allow, profile.deny))
