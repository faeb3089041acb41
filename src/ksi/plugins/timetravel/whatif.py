"""What if: one request is changed, and what depended on it runs again on a branch.

The branch is cut off just before the request. Whatever came from outside after it is told again in the same order: what
stands in the request's cone runs anew, the rest is written down as it was, and costs nothing. What runs anew and asks
the world for the very same again (a model, a tool) is given the answer that the log has of it, which is free too.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Literal

import msgspec

from ksi.core import canonical, ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ConflictError, KSIError, NotFoundError, UnsupportedError, ValidationError
from ksi.core.events import MAIN, Filter, Position, RecordedEvent
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.core.threads import settle
from ksi.core.views import View
from ksi.kernel.door import Session
from ksi.kernel.effects import EFFECTS, Recorded
from ksi.kernel.replay import KEPT
from ksi.kernel.router import Router
from ksi.plugins.timetravel.bill import Bill, bill
from ksi.store.cone import cone_of

REQUESTS = "$requests"
ALL = ("fact", "request", "outcome", "chunk")
NOT_TOLD_AGAIN = ("store:", "timetravel:", "plugin:", "projection:")
"""Requests about the log and the daemon themselves, which are no part of what happened."""


What = Literal["changed", "rerun", "kept"]


class Step(msgspec.Struct, frozen=True):
    """A request that was told again. ``position`` is that on the old branch, ``error`` the code that it ended with."""

    position: int
    name: str
    what: What
    error: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """What would be told again, in order: each request from outside, and whether it stands in the cone."""

    root: RecordedEvent
    requests: list[tuple[RecordedEvent, bool]]
    inside: Collection[Position]


class WhatIf:
    """One such question."""

    def __init__(self, router: Router, views: Mapping[str, type[View[Any]]], branch: str = MAIN) -> None:
        self._router = router
        self._log: Journal = router.journal
        self._views = views
        self._branch = branch

    async def plan(self, at: Position) -> Plan:
        """What depends on the request at ``at``.

        Raises:
            NotFoundError: There is nothing at that position.
            ValidationError: It is no request from outside; the message names the one that is behind it.
        """
        root = await self._request_at(at)
        cone = await cone_of(self._log, root, self._views, branch=self._branch)
        touched = {await self._origin(member.request) for member in cone.members} | {root.id}
        told = (Filter(kinds=("request",), streams=(REQUESTS,)),)
        requests = [
            (event, event.id in touched)
            async for event in self._log.read_all(told, after=Position(at - 1), branch=self._branch)
            if event.cause is None and not event.name.startswith(NOT_TOLD_AGAIN)
        ]
        return Plan(root, requests, cone.positions)

    def steps(self, plan: Plan) -> list[Step]:
        """What would become of each request."""
        return [Step(event.position, event.name, _what(plan, event, inside)) for event, inside in plan.requests]

    def changed(self, request: RecordedEvent, fields: Mapping[str, Any]) -> bytes:
        """The payload of ``request`` with other ``fields``.

        Raises:
            ValidationError: That changes nothing, or the event takes no such payload.
            UnknownEventError: No plugin handles it any more.
        """
        if not isinstance(request.data, dict):
            raise UnsupportedError(f"@{request.position}: its payload has no fields")
        changed = canonical.encode({**request.data, **fields})
        if changed == canonical.encode(request.data):
            raise ValidationError("nothing is changed: give other values")
        self._router.recorded.check(EventEnvelope(name=request.name, raw=changed))
        return changed

    async def run(self, plan: Plan, changed: bytes, branch: str, principal: str) -> AsyncIterator[Step]:
        """Tell it all again on ``branch``; the request itself with the payload ``changed``.

        After a crash it goes on where it was: what was told before is found by its id.
        """
        repeated: list[str] = []
        try:
            for event, is_inside in plan.requests:
                what, error = _what(plan, event, is_inside), None
                if what == "kept":
                    await self._keep(event, branch)
                else:
                    raw = changed if what == "changed" else event.raw
                    repeated.append(ids.text(ids.derived(event.id, "branch", branch)))
                    self._router.kept[repeated[-1]] = await self._effects_below(event)
                    error = await self._ask(event, raw, branch, principal)
                yield Step(event.position, event.name, what, error)
        finally:
            for run in repeated:
                self._router.kept.pop(run, None)

    async def fork(self, plan: Plan, branch: str, *, is_own: bool) -> None:
        """Make ``branch``. One whose name ``is_own`` may be there: nobody else can have made it, before a crash."""
        try:
            await self._log.fork(Position(plan.root.position - 1), branch, parent=self._branch)
        except ConflictError:
            if not is_own or all(info.name != branch for info in await self._log.branches()):
                raise

    async def bill(self, plan: Plan, branch: str | None) -> Bill:
        """What models have cost behind the request; ``branch`` None: nothing was run."""
        return await bill(self._log, Position(plan.root.position - 1), plan.inside, self._branch, branch)

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _request_at(self, at: Position) -> RecordedEvent:
        event = await self._log.at(at, branch=self._branch)
        if event is None:
            raise NotFoundError("event", f"@{at}")
        if event.kind == "request" and event.stream == REQUESTS and event.cause is None:
            return event
        origin = await self._log.find(await self._origin(event.id if event.cause is None else event.cause))
        behind = "" if origin is None else f": change the request behind it, @{origin.position}"
        raise ValidationError(f"@{at} ({event.name}) is no request from outside{behind}")

    async def _origin(self, request: bytes) -> bytes:
        """The request from outside that ``request`` comes from."""
        known = await self._log.find(request)
        while known is not None and known.request.cause is not None:
            request = known.request.cause
            known = await self._log.find(request)
        return request

    async def _ask(self, event: RecordedEvent, raw: bytes, branch: str, principal: str) -> str | None:
        """Run it on ``branch``; the code of the error that it ends with."""
        envelope = EventEnvelope(
            name=event.name,
            raw=raw,
            principal=principal,
            source="timetravel:whatif",
            branch=branch,
            id=ids.derived(event.id, "branch", branch),
            subject=event.subject,
        )
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        session = Session(principal=principal, source=envelope.source)
        self._router.dispatch(envelope, session, lambda _, raw, error: settle(ended, raw, error), None)
        try:
            await ended
        except KSIError as error:
            return error.code
        return None

    async def _keep(self, event: RecordedEvent, branch: str) -> None:
        """Write down on ``branch`` what it and all that it caused had written, without running anything."""
        if await self._log.find(ids.derived(event.id, "branch", branch)) is not None:
            return
        known = await self._log.find(event.id)
        assert known is not None  # it was read just now
        origin = msgspec.structs.replace(
            known.request,
            id=ids.derived(event.id, "branch", branch),
            branch=branch,
            correlation=known.request.correlation_id,  # its run has the name that it had
        )
        entries = [_entry(each) async for each in self._written_below(event)]
        ended = known.outcome or Outcome(ok=False, data=canonical.encode(_INTERRUPTED))
        metadata = {KEPT: ids.text(event.id), **(ended.metadata or {})}  # of one that was kept before, where it was run
        outcome = msgspec.structs.replace(ended, metadata=metadata)
        unit = Unit(origin=origin, request=True, entries=entries, outcome=outcome)
        kept: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._log.write(unit, lambda committed, error: settle(kept, committed, error))
        await kept

    async def _effects_below(self, event: RecordedEvent) -> Recorded:
        """What it and all that it caused had done, and done to the end: asked the same again, they are given that."""
        each_its_own: defaultdict[bytes, Recorded] = defaultdict(Recorded)
        of_run = (
            Filter(streams=(EFFECTS,), kinds=("request", "outcome"), correlation_id=event.correlation_id),
            Filter(kinds=("chunk",), correlation_id=event.correlation_id),
        )
        async for each in self._log.read_all(of_run, after=event.position, branch=self._branch):
            if each.cause is None or each.is_erased:
                continue
            if each.stream == EFFECTS:
                each_its_own[each.cause].note(each.name, each.data)
            else:
                each_its_own[each.cause].note_chunk(each.raw)
        below = Recorded()
        for cause, recorded in each_its_own.items():
            known = await self._log.find(cause)
            is_whole = known is not None and known.outcome is not None and known.outcome.ok
            if is_whole and await self._origin(cause) == event.id:
                below.ended |= recorded.ended
                below.pieces |= recorded.pieces
        return below

    async def _written_below(self, event: RecordedEvent) -> AsyncIterator[RecordedEvent]:
        """Facts and chunks that it caused, itself or through others, in order."""
        run = (Filter(kinds=("fact", "chunk"), correlation_id=event.correlation_id),)
        async for each in self._log.read_all(run, after=event.position, branch=self._branch):
            if each.cause is not None and await self._origin(each.cause) == event.id:
                yield each


_INTERRUPTED = {"code": "interrupted", "message": "it was open where the branch was cut", "details": {}}


def _what(plan: Plan, event: RecordedEvent, is_inside: bool) -> What:
    if event.id == plan.root.id:
        return "changed"
    return "rerun" if is_inside else "kept"


def _entry(event: RecordedEvent) -> Entry:
    return Entry(
        stream=event.stream,
        name=event.name,
        data=event.raw,
        kind=event.kind,
        tags=event.tags,
        schema_version=event.schema_version,
        subject=event.subject,
        occurred_us=event.occurred_us,
    )
