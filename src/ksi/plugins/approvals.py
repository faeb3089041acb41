"""Rights given at run time, and requests that wait for somebody's word: both outlive a restart."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from ksi.core import ids
from ksi.core.errors import AmbiguousError, NotFoundError, PermissionDeniedError, ValidationError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext, require_main
from ksi.kernel.declare import event, query
from ksi.kernel.parking import RequestParked
from ksi.kernel.rerun import IS_PARKED, PARKED
from ksi.kernel.router import Router
from ksi.plugins.profiles import Grant, Policy

if TYPE_CHECKING:
    from ksi.kernel.plugin import Host

ASKED = (Filter(names=(IS_PARKED,), streams=(PARKED,)),)
GIVEN = (Filter(names=("permission:was_granted", "permission:was_revoked", "permission:was_assigned")),)
Who = Annotated[str, Meta(min_length=1, max_length=300, description="a principal, as in uid:1000 or agent:ada")]
Patterns = Annotated[tuple[str, ...], Meta(description="event patterns, as in state:*")]
Why = Annotated[str, Meta(max_length=1000, description="a word for who asked, and for those who read the log")]
Waiting = Annotated[str, Meta(min_length=4, description="id of the request that waits, or a unique beginning of it")]


@fact("permission:was_granted")
class RightsWereGranted(msgspec.Struct, frozen=True):
    """All that a principal has beside its profile, from here on."""

    principal: str
    grant: Grant
    by: str


@fact("permission:was_revoked")
class RightsWereRevoked(msgspec.Struct, frozen=True):
    """A principal has nothing but its profile from here on."""

    principal: str
    by: str


@fact("permission:was_assigned")
class ProfileWasAssigned(msgspec.Struct, frozen=True):
    """A principal has this profile from here on, unless the configuration says another; null: the default one."""

    principal: str
    profile: str | None
    by: str


@fact("permission:was_decided")
class RequestWasDecided(msgspec.Struct, frozen=True):
    """Somebody's word on a request that had waited for one."""

    event: str
    event_id: str
    principal: str
    approved: bool
    by: str
    why: str


class WaitingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits. ``rule`` is the line that has it wait, ``position`` where that stands in the log."""

    event_id: str
    event: str
    principal: str
    rule: str
    asked_at: datetime
    position: int


class WaitingRequests(msgspec.Struct, frozen=True):
    requests: list[WaitingRequest]


class GrantedRights(msgspec.Struct, frozen=True):
    principal: str
    granted: Grant


class AssignedProfile(msgspec.Struct, frozen=True):
    """``profile`` is the one that counts: the configuration may say another."""

    principal: str
    profile: str


class Approvals:
    """The part of the plugin ``permission`` that changes at run time."""

    host: Host
    _policy: Policy

    async def load_grants(self) -> None:
        """Give what the log says was given."""
        async for given in self.host.services.get(EventLog).read_all(GIVEN):
            match given.name:
                case "permission:was_granted":
                    granted = given.into(RightsWereGranted)
                    self._policy.give(granted.principal, granted.grant)
                case "permission:was_assigned":
                    assigned = given.into(ProfileWasAssigned)
                    self._policy.assign(assigned.principal, assigned.profile)
                case _:
                    self._policy.give(given.into(RightsWereRevoked).principal, None)

    # ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "permission:grant",
        key=lambda request: f"permission/{request.principal}",
        errors=["unsupported"],
        examples=[{"principal": "agent:ada", "allow": ["state:*"], "ask": ["agent:spawn"]}],
    )
    async def grant(
        self, principal: Who, context: EventContext, allow: Patterns = (), ask: Patterns = (), deny: Patterns = ()
    ) -> GrantedRights:
        """Give a principal rights beside its profile, added to what it was given before; ``deny`` takes some away."""
        require_main(context, "rights")
        if not (allow or ask or deny):
            raise ValidationError("nothing is granted: give allow, ask or deny")
        before = self._policy.granted(principal)
        granted = Grant(_united(before.allow, allow), _united(before.deny, deny), _united(before.ask, ask))
        context.append(f"permission/{principal}", RightsWereGranted(principal, granted, context.principal))
        await context.commit()  # a right counts when it is on disk
        self._policy.give(principal, granted)
        await self._end_denied(context, principal)
        return GrantedRights(principal, granted)

    @event(
        "permission:revoke",
        key=lambda request: f"permission/{request.principal}",
        errors=["not_found", "unsupported"],
        examples=[{"principal": "agent:ada"}],
    )
    async def revoke(self, principal: Who, context: EventContext) -> GrantedRights:
        """Take back all that was granted; its profile stays. What it waits for, and may no more, is denied."""
        require_main(context, "rights")
        before = self._policy.granted(principal)
        if before == Grant():
            raise NotFoundError("grant", principal)
        context.append(f"permission/{principal}", RightsWereRevoked(principal, context.principal))
        await context.commit()
        self._policy.give(principal, None)
        await self._end_denied(context, principal)
        return GrantedRights(principal, before)

    @event(
        "permission:assign",
        key=lambda request: f"permission/{request.principal}",
        errors=["not_found", "permission_denied", "unsupported"],
        examples=[{"principal": "agent:ada", "profile": "restricted"}],
    )
    async def assign(
        self,
        principal: Who,
        context: EventContext,
        profile: Annotated[str | None, Meta(description="null: the one that it had before")] = None,
        within: Annotated[str | None, Meta(description="whose rights it must not exceed, beside yours")] = None,
    ) -> AssignedProfile:
        """Give a principal a profile, as the configuration does for others; none that allows more than you may do."""
        require_main(context, "rights")
        if profile is not None:
            for giver in {context.principal, within or context.principal}:
                self._check_assignable(profile, giver)
        context.append(f"permission/{principal}", ProfileWasAssigned(principal, profile, within or context.principal))
        await context.commit()
        self._policy.assign(principal, profile)
        await self._end_denied(context, principal)
        return AssignedProfile(principal, self._policy.profile_of(principal))

    def _check_assignable(self, profile: str, principal: str) -> None:
        """Raises NotFoundError or PermissionDeniedError."""
        if profile not in self._policy.profiles:
            known = difflib.get_close_matches(profile, self._policy.profiles)
            raise NotFoundError("permission profile", profile, suggestions=known)
        exceeding = self._policy.exceeding(profile, principal, sorted(self._names(profile, principal)))
        if exceeding is not None:
            rule = f"the profile {profile} allows more of it than {principal} may do"
            raise PermissionDeniedError(exceeding, principal=principal, rule=rule)

    def _names(self, profile: str, principal: str) -> set[str]:
        """What rules see: of names that are made of requests, and that nobody can list, the rules themselves."""
        names: set[str] = set()
        for row in self.host.services.get(Router).table.values():
            name = row.spec.declaration.permission or row.name
            prefix = f"{row.name.partition(':')[0]}:"
            names |= {name} if isinstance(name, str) else self._policy.patterns(profile, principal, prefix)
        return names

    # ── requests that wait ───────────────────────────────────────────────────────────────────────────────────────────
    @query("permission:pending", examples=[{}])
    async def pending(self) -> WaitingRequests:
        """List the requests that wait for somebody's word, the oldest first."""
        return WaitingRequests([_shown(each) async for each in self._waiting()])

    @event("permission:approve", errors=["not_found", "ambiguous", "permission_denied"], examples=[{"id": "01992f3a"}])
    async def approve(self, id: Waiting, context: EventContext, why: Why = "") -> WaitingRequest:
        """Let a request run that waits, once. Nobody approves its own."""
        waiting = await self._find(id)
        if waiting.principal == context.principal:
            rule = "nobody approves its own request"
            raise PermissionDeniedError("permission:approve", principal=context.principal, rule=rule)
        await self.host.services.get(Router).parking.resume(ids.parse(waiting.event_id))
        self._decide(context, waiting, approved=True, why=why)
        return waiting

    @event("permission:deny", errors=["not_found", "ambiguous"], examples=[{"id": "01992f3a", "why": "too dear"}])
    async def refuse(self, id: Waiting, context: EventContext, why: Why = "") -> WaitingRequest:
        """End a request that waits: whoever awaits it gets ``permission_denied``."""
        waiting = await self._find(id)
        rule = f"denied by {context.principal}" + (f": {why}" if why else "")
        await self._end(context, waiting, rule=rule, why=why)
        return waiting

    async def _end_denied(self, context: EventContext, principal: str) -> None:
        """End those requests of ``principal`` for which nobody's word would do any more: their right was taken."""
        waiting = [shown async for each in self._waiting() if (shown := _shown(each)).principal == principal]
        for request in waiting:
            verdict = self._policy.decide(principal, self._permission_of_waiting(request))
            if verdict.word == "deny":
                await self._end(context, request, rule=verdict.rule, why="its right was taken")

    def _permission_of_waiting(self, request: WaitingRequest) -> str:
        """The name by which rules see it."""
        router = self.host.services.get(Router)
        row, running = router.table.get(request.event), router.parking.get(ids.parse(request.event_id))
        name = None if row is None else row.spec.declaration.permission
        if callable(name):
            return name(running.envelope) if running is not None else request.event
        return name or request.event

    async def _end(self, context: EventContext, waiting: WaitingRequest, *, rule: str, why: str) -> None:
        error = PermissionDeniedError(waiting.event, principal=waiting.principal, rule=rule)
        await self.host.services.get(Router).parking.cancel(ids.parse(waiting.event_id), error)
        self._decide(context, waiting, approved=False, why=why)

    def _decide(self, context: EventContext, waiting: WaitingRequest, *, approved: bool, why: str) -> None:
        decided = RequestWasDecided(
            waiting.event, waiting.event_id, waiting.principal, approved, context.principal, why
        )
        context.append(f"permission/{waiting.principal}", decided)

    async def _find(self, beginning: str) -> WaitingRequest:
        found = [_shown(each) async for each in self._waiting()]
        matching = [each for each in found if each.event_id.startswith(beginning.lower())]
        if len(matching) > 1:
            raise AmbiguousError("waiting request", beginning, [each.event_id for each in matching])
        if not matching:
            raise NotFoundError("waiting request", beginning)
        return matching[0]

    async def _waiting(self) -> AsyncIterator[RecordedEvent]:
        """The facts that say of a request that it waits, of those that still do."""
        services = self.host.services
        parking = services.get(Router).parking
        async for parked in services.get(EventLog).read_all(ASKED):
            if await parking.is_parked(ids.parse(parked.into(RequestParked).event_id)):
                yield parked


def _united(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _shown(parked: RecordedEvent) -> WaitingRequest:
    said = parked.into(RequestParked)
    return WaitingRequest(
        event_id=said.event_id,
        event=said.event,
        principal=said.principal,
        rule=said.reason,
        asked_at=parked.recorded_at,
        position=parked.position,
    )
