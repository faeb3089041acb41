"""Runs: all events with one correlation id, and which of them caused which."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from ksi.core.envelope import trace_of_run
from ksi.core.events import MAIN, Filter, Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventRegistry
from ksi.kernel.router import Router
from ksi.plugins.references import FAILURES, LINKED, ROOTS, EventReference, RunReference, find_event, find_run
from ksi.plugins.runs import Node, Run, Status
from ksi.plugins.shapes import Limit, Place, ShownEvent, optional_position, page_of, shown
from ksi.plugins.traced import traced_tree
from ksi.store.debugger import TimeTravelDebugger

EVENTS_MAX = 5000
"""Events of one run that are put together."""
LOOKED_AT_MAX = 1000
"""Runs that are looked at for one page."""


class RunSummary(msgspec.Struct, frozen=True):
    """A run. ``name`` is that of its first request; ``events`` leaves chunks out; ``tokens`` are in and out."""

    run: str
    name: str
    position: int
    started_at: datetime
    duration_ms: float | None
    events: int
    status: Status
    principal: str | None
    tokens: int


class Runs(msgspec.Struct, frozen=True):
    """The newest first; ``next`` goes into ``after``."""

    runs: list[RunSummary]
    next: int | None


class Trace(msgspec.Struct, frozen=True):
    """Events of a run in their order; ``next`` goes into ``after``."""

    run: str
    events: list[ShownEvent]
    next: int | None


class Tree(msgspec.Struct, frozen=True):
    """What a run did. ``complete`` is false where it has more events than are put together.

    ``trace_id`` is that of W3C: the client's, or one that is made of the run's id.
    """

    run: str
    trace_id: str
    tree: list[Node]
    complete: bool


class Chain(msgspec.Struct, frozen=True):
    """From the first cause down to the event that was asked for."""

    chain: list[ShownEvent]


class Correlation(AsyncPlugin):
    """Shows runs, out of the log: a read model of them would cost every command a record of its own."""

    name = "correlation"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._registry = self.host.services.get(EventRegistry)
        self._tracer = self.host.services.get(Router).tracer

    @query("correlation:runs", examples=[{}, {"limit": 5}, {"status": "interrupted"}])
    async def runs(
        self,
        context: EventContext,
        limit: Limit = 20,
        after: Place | None = None,
        status: Annotated[Status | None, Meta(description="only runs that are so")] = None,
    ) -> Runs:
        """List the runs, the newest first (those that failed by their end), with their status and what they used.

        A page may be short, or empty, where few runs have the ``status``: go on until ``next`` is null.
        """
        found: list[RunSummary] = []
        before, looked_at = optional_position(after), 0
        branch = context.branch
        # What the cut of a branch has interrupted has no end there.
        by_failure = status == "error" or (status == "interrupted" and branch == MAIN)
        until = None if before is None else Position(before - 1)
        query = FAILURES if by_failure else ROOTS
        async for event in self._log.read_all(query, until=until, backwards=True, branch=branch):
            summary = await self._summary(event, branch)
            if summary is not None and status in (None, summary.status):
                found.append(summary)
            looked_at += 1
            if len(found) == limit or looked_at == LOOKED_AT_MAX:
                return Runs(found, event.position)
        return Runs(found, None)

    @query("correlation:trace", errors=["not_found", "ambiguous"], examples=[{"run": "last"}])
    async def trace(
        self, context: EventContext, run: RunReference, after: Place | None = None, limit: Limit = 1000
    ) -> Trace:
        """Give the events of a run in their order."""
        run = await find_run(self._log, run, branch=context.branch)
        place, branch = optional_position(after), context.branch
        page = self._log.read_all(_of(run), after=place, branch=branch, envelopes=True)
        events, is_full = await page_of(page, limit)
        return Trace(run, events, events[-1].position if is_full else None)

    @query("correlation:tree", errors=["not_found", "ambiguous"], examples=[{}, {"run": "last"}])
    async def tree(self, context: EventContext, run: RunReference = "last") -> Tree:
        """Show what a run did: requests with their facts, effects and nested requests, as a tree of causes."""
        run = await find_run(self._log, run, branch=context.branch)
        whole = await self._run(run, context.branch)
        await self._count_chunks(whole, context.branch)
        spans = () if self._tracer is None else self._tracer.of_run(run)
        return Tree(
            run, whole.trace_id or trace_of_run(run), traced_tree(whole, spans), complete=whole.size < EVENTS_MAX
        )

    @query("correlation:chain", errors=["not_found", "ambiguous"], examples=[{"event_id": "@1234"}])
    async def chain(self, event_id: EventReference, context: EventContext) -> Chain:
        """Say why an event happened: what caused it, what caused that, up to the beginning."""
        event = await find_event(self._log, event_id, branch=context.branch)
        debugger = TimeTravelDebugger(self._log, branch=context.branch)
        return Chain([shown(each) for each in await debugger.chain(event)])

    async def _summary(self, event: RecordedEvent, branch: str) -> RunSummary | None:
        """The run of ``event``, where that is what it is listed by: its last root, or the failure of its first."""
        run = event.correlation_id or ""
        whole = await self._run(run, branch)
        root = whole.first_failed if event.kind == "outcome" else whole.last_root
        if whole.started_at is None or root is None or root.event_id != str(_request_of(event)):
            return None
        if whole.status == "interrupted":
            await self._count_chunks(whole, branch)
        return RunSummary(
            run=run,
            name=whole.roots[0].name,
            position=root.position,
            started_at=whole.started_at,
            duration_ms=whole.duration_ms,
            events=whole.size,
            status=whole.status,
            principal=whole.principal,
            tokens=whole.tokens,
        )

    async def _run(self, run: str, branch: str) -> Run:
        events = self._log.read_all(_of(run), limit=EVENTS_MAX, branch=branch, envelopes=True)
        return Run([event async for event in events], branch)

    async def _count_chunks(self, run: Run, branch: str) -> None:
        """A stream's chunks have a log stream of their own, named by its request; facts may stand between them."""
        for event_id, node in run.requests.items():
            spec = self._registry.events.get(node.name)
            if spec is not None and spec.kind == "stream":
                stream = f"{spec.declaration.category or node.name.partition(':')[0]}/{event_id}"
                run.count_chunks(node, await self._log.version(stream, branch=branch) - run.facts_in[stream])


def _request_of(event: RecordedEvent) -> UUID | None:
    return event.causation_id if event.kind == "outcome" else event.event_id


def _of(run: str) -> tuple[Filter, ...]:
    return (Filter(correlation_id=run, kinds=LINKED),)
