"""The events of time travel: questions about the past, answered out of the log."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.config import Config
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, query, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.kernel.router import Router
from ksi.plugins.references import EventReference, RunReference, find_event, find_run
from ksi.plugins.shapes import Place, ShownEvent, optional_position, position, shown
from ksi.plugins.timetravel.bill import Cost, Tokens
from ksi.plugins.timetravel.child import repeat
from ksi.plugins.timetravel.orders import Orders, settings_of
from ksi.plugins.timetravel.whatif import Step, WhatIf
from ksi.store.compare import Compared, compare_branches
from ksi.store.cone import cone_of
from ksi.store.debugger import Change, TimeTravelDebugger
from ksi.store.piped import LogServer
from ksi.store.structure import MISSING, Difference, differences, parse_path
from ksi.store.where import compile_where

END_OF_TIME_US = 253_402_300_800_000_000
"""The year 10000, for which there is no date."""
REPLAY_TIMEOUT = 600.0
WHATIF_TIMEOUT = 3600.0
EntityName = Annotated[str, Meta(description="name of its stream, as in conversation/c1")]


SealKind = Literal["audit hook", "audit hook and system calls"]


class EntityDiff(msgspec.Struct, frozen=True):
    """What is not the same; a value that was not there before, or is not there after, is left out."""

    entity: str
    differences: list[Difference]


class Blamed(msgspec.Struct, frozen=True):
    """``event`` wrote the value; ``chain`` leads from the first cause down to it.

    ``before`` and ``after`` are the value before and after it; one that was not there is left out.
    """

    event: ShownEvent
    chain: list[ShownEvent]
    before: Any | UnsetType = UNSET
    after: Any | UnsetType = UNSET


class Bisected(msgspec.Struct, frozen=True):
    """The event that made it true, null where none did; ``asked`` states were looked at."""

    run: str
    event: ShownEvent | None
    asked: int
    differences: list[Difference]


class ConeMember(msgspec.Struct, frozen=True):
    """A request that would have been different. ``through`` is the position of its cause, or of what it had read."""

    event_id: str
    name: str
    why: Literal["caused", "read"]
    through: int


class ShownCone(msgspec.Struct, frozen=True):
    """``events`` counts all of the cone; ``requests`` are those in it, as they joined."""

    events: int
    requests: list[ConeMember]


class States(msgspec.Struct, frozen=True):
    """Entities by name, all as they were at one moment."""

    entities: Mapping[str, Any]


class Repeated(msgspec.Struct, frozen=True):
    """A run that said the same again, event by event, while nothing outside was called.

    ``cut_off`` counts requests that had been cancelled or cut off by a crash: they were repeated up to there. ``seal``
    is what kept the plugins in: an audit hook alone where the system has no filter of system calls.
    """

    run: str
    requests: int
    facts: int
    chunks: int
    effects: int
    cut_off: int
    calls: int
    seal: SealKind


class Answered(msgspec.Struct, frozen=True):
    """``branch`` is where it was told again, null where nothing ran; ``entities`` those that came out otherwise."""

    branch: str | None
    tokens: Tokens
    cost: Cost
    entities: list[Compared]


class TimeTravel(AsyncPlugin):
    """Answers out of the log what was, and what made it so; repeats runs in a sealed process."""

    name = "timetravel"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @query(
        "timetravel:replay",
        timeout=REPLAY_TIMEOUT,
        concurrent=1,
        errors=["not_found", "ambiguous", "replay_divergence", "replay_escape", "replay_unhandled", "replay_error"],
        examples=[{"run": "last"}],
    )
    async def replay(self, run: RunReference, context: EventContext) -> Repeated:
        """Run the handlers of a run again, on what is recorded: identical, or the first difference is the error.

        Effects, reads, nested requests, tokens, times and randomness are served from the log. Nothing can happen: it is
        done in a process of its own that can only read the log.
        """
        services = self.host.services
        config = services.get(Config)
        orders = Orders(
            parent=os.getpid(),
            run=await find_run(self._log, run, branch=context.branch),
            branch=context.branch,
            plugins=tuple(dict.fromkeys(info.source for info in services.get(Plugins).list_plugins())),
            home=str(config.home.path),
            settings=settings_of(config),
        )
        server = LogServer(services.get(Router).journal)
        report = await repeat(orders, server, output=config.home.logs / "replay.log")
        assert report.replayed is not None  # a failure was raised
        seal: SealKind = "audit hook and system calls" if report.native else "audit hook"
        return Repeated(**msgspec.structs.asdict(report.replayed), calls=0, seal=seal)

    @query("timetravel:position", examples=[{"when_us": 1_790_000_000_000_000}])
    async def position_at(
        self,
        when_us: Annotated[int, Meta(ge=0, lt=END_OF_TIME_US, description="microseconds since 1970")],
        context: EventContext,
    ) -> int:
        """Give the last position that was recorded by a moment; 0 where there was none."""
        return await self._log.position_at(utc(when_us), branch=context.branch) or 0

    @query(
        "timetravel:diff", errors=["not_found", "beyond_head"], examples=[{"entity": "state/default", "before": "@10"}]
    )
    async def diff(
        self,
        entity: EntityName,
        before: Place,
        context: EventContext,
        after: Annotated[Place | None, Meta(description="now where nothing is said")] = None,
    ) -> EntityDiff:
        """Say how an entity differs between two positions."""
        debugger = self._debugger(context)
        await debugger.entity_at(entity)  # one that never was is not found; one that was not yet has its beginning
        return EntityDiff(entity, await debugger.diff(entity, position(before), optional_position(after)))

    @query(
        "timetravel:blame",
        errors=["not_found", "beyond_head"],
        examples=[{"entity": "conversation/c1", "path": "messages.3"}, {"entity": "state/default", "path": "colour"}],
    )
    async def blame(
        self,
        entity: EntityName,
        path: Annotated[str, Meta(description="a value of its state, as in messages[-1].text")],
        context: EventContext,
        at: Annotated[Place | None, Meta(description="as it was at this position")] = None,
    ) -> Blamed:
        """Find the event that last wrote a value of an entity, and the causes behind it."""
        found = await self._debugger(context).blame(entity, parse_path(path), optional_position(at))
        before, after = (UNSET if value is MISSING else value for value in (found.change.before, found.change.after))
        return Blamed(shown(found.change.event), [shown(event) for event in found.chain], before, after)

    @query(
        "timetravel:bisect",
        errors=["not_found", "ambiguous"],
        examples=[{"run": "last", "where": 'messages[-1].text contains "Bruno"'}],
    )
    async def bisect(
        self,
        run: RunReference,
        where: Annotated[str, Meta(description='as in  messages[-1].text contains "Bruno" and not version == 3')],
        context: EventContext,
        monotone: Annotated[bool, Meta(description="it changes once: ask less often")] = False,
    ) -> Bisected:
        """Find the event of a run that made an expression true of the entity that it wrote."""
        predicate, run = compile_where(where), await find_run(self._log, run, branch=context.branch)
        change = await self._debugger(context).bisect(run, predicate, method="bisect" if monotone else "scan")
        return _bisected(run, change)

    @query("timetravel:cone", errors=["not_found", "ambiguous", "overloaded"], examples=[{"event_id": "@1234"}])
    async def cone(self, event_id: EventReference, context: EventContext) -> ShownCone:
        """Say what would have been different without an event: what it caused, and who had read what came of it."""
        branch, views = context.branch, self.host.services.get(Plugins).views()
        event = await find_event(self._log, event_id, branch=branch)
        cone = await cone_of(self._log, event, views, branch=branch)
        members = [ConeMember(ids.text(one.request), one.name, one.why, one.through) for one in cone.members]
        return ShownCone(len(cone.positions), members)

    @stream(
        "timetravel:whatif",
        on_crash="rerun",
        timeout=WHATIF_TIMEOUT,
        on_disconnect="detach",
        errors=["not_found", "conflict"],
        examples=[{"at": "@1234", "change": {"text": "My name is Bruno."}, "live": True}],
    )
    async def whatif(
        self,
        at: Annotated[Place, Meta(description="position of a request from outside")],
        change: Annotated[dict[str, Any], Meta(description="fields of its payload, as they should have been")],
        context: EventContext,
        live: Annotated[bool, Meta(description="run it; else only say what would run")] = False,
        name: Annotated[str | None, Meta(description="the branch that is made for it")] = None,
    ) -> AsyncIterator[Step | End[Answered]]:
        """Change a request, and run again on a branch what depended on it, and nothing else.

        Chunks say what becomes of each request from outside, in order. Without ``live`` nothing runs, and no branch is
        made: they say what would run.
        """
        services = self.host.services
        question = WhatIf(services.get(Router), services.get(Plugins).views(), context.branch)
        plan = await question.plan(position(at))
        context.adopt_subject(plan.root.subject)
        changed = question.changed(plan.root, change)
        if not live:
            for step in question.steps(plan):
                yield step
            paid = await question.bill(plan, None)
            yield End(Answered(None, paid.tokens, paid.cost, []))
            return
        branch = name or f"whatif-{plan.root.position}-{context.event_id[-6:]}"
        fork = partial(question.fork, plan, branch, is_own=name is None)
        asked = {"name": branch, "at": plan.root.position - 1, "parent": context.branch}
        await context.effect("store:fork", asked, fork, idempotent=True)
        async for step in question.run(plan, changed, branch, context.principal):
            yield step
        compared = await compare_branches(self._log, services.get(Plugins).fold_of, context.branch, branch)
        paid = await question.bill(plan, branch)
        yield End(Answered(branch, paid.tokens, paid.cost, compared.entities))

    @query("timetravel:state", errors=["beyond_head"], examples=[{"at": "@100", "pattern": "conversation/*"}])
    async def state(
        self,
        at: Place,
        context: EventContext,
        pattern: Annotated[str, Meta(description="names of entities, as in agent/*")] = "*",
    ) -> States:
        """Show all entities as they were at one position: a consistent cut."""
        return States(await self._debugger(context).reconstruct_state(position(at), pattern=pattern))

    def _debugger(self, context: EventContext) -> TimeTravelDebugger:
        return TimeTravelDebugger(self._log, self.host.services.get(Plugins).fold_of, branch=context.branch)


def _bisected(run: str, change: Change[Any] | None) -> Bisected:
    if change is None:
        return Bisected(run, None, 0, [])
    return Bisected(run, shown(change.event), change.states_built, differences(change.before, change.after))
