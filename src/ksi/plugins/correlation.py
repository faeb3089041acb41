"""Runs: all events with one correlation id, and which of them caused which."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.events import Filter, Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventRegistry
from ksi.plugins.references import LINKED, find_event, find_run, is_root
from ksi.plugins.runs import Node, Run, Status
from ksi.plugins.shapes import Limit, Place, ShownEvent, optional_position, shown
from ksi.store.debugger import TimeTravelDebugger

EVENTS_MAX = 5000
"""Events of one run that are put together."""
RunReference = Annotated[str, Meta(description="its id, a unique beginning of it or of one of its events, @1234, last")]


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
    """What a run did. ``complete`` is false where it has more events than are put together."""

    run: str
    tree: list[Node]
    complete: bool


class Chain(msgspec.Struct, frozen=True):
    """From the first cause down to the event that was asked for."""

    chain: list[ShownEvent]


class Correlation(AsyncPlugin):
    """Shows runs. Recent ones are found by reading the log backwards: an index would cost every command a record."""

    name = "correlation"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._registry = self.host.services.get(EventRegistry)

    @query("correlation:runs", examples=[{}, {"limit": 5}])
    async def runs(self, limit: Limit = 20, after: Place | None = None) -> Runs:
        """List the runs, the newest first, with their status and what they used."""
        found: list[RunSummary] = []
        before = optional_position(after)
        requests = self._log.read_all(
            (Filter(kinds=("request",)),), until=None if before is None else Position(before - 1), backwards=True
        )
        async for event in requests:
            summary = await self._summary(event) if is_root(event) else None
            if summary is not None:
                found.append(summary)
            if len(found) == limit:
                return Runs(found, event.position)
        return Runs(found, None)

    @query("correlation:trace", errors=["not_found", "ambiguous"], examples=[{"run": "last"}])
    async def trace(self, run: RunReference, after: Place | None = None, limit: Limit = 1000) -> Trace:
        """Give the events of a run in their order."""
        run = await find_run(self._log, run)
        page = self._log.read_all(_of(run), after=optional_position(after), limit=limit)
        events = [shown(event) async for event in page]
        return Trace(run, events, events[-1].position if len(events) == limit else None)

    @query("correlation:tree", errors=["not_found", "ambiguous"], examples=[{}, {"run": "last"}])
    async def tree(self, run: RunReference = "last") -> Tree:
        """Show what a run did: requests with their facts, effects and nested requests, as a tree of causes."""
        run = await find_run(self._log, run)
        whole = await self._run(run)
        await self._count_chunks(whole)
        return Tree(run, whole.roots, complete=whole.size < EVENTS_MAX)

    @query("correlation:chain", errors=["not_found", "ambiguous"], examples=[{"event_id": "@1234"}])
    async def chain(
        self, event_id: Annotated[str, Meta(description="an event's id, a unique beginning of it, or @1234")]
    ) -> Chain:
        """Say why an event happened: what caused it, what caused that, up to the beginning."""
        event = await find_event(self._log, event_id)
        return Chain([shown(each) for each in await TimeTravelDebugger(self._log).chain(event)])

    async def _summary(self, root: RecordedEvent) -> RunSummary | None:
        """The run that ``root`` began, or goes on with; None where a later request goes on with it."""
        run = root.correlation_id or ""
        whole = await self._run(run)
        if whole.started_at is None or root.position != max(node.position for node in whole.requests_at_root()):
            return None
        if whole.status == "interrupted":
            await self._count_chunks(whole)
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

    async def _run(self, run: str) -> Run:
        return Run([event async for event in self._log.read_all(_of(run), limit=EVENTS_MAX)])

    async def _count_chunks(self, run: Run) -> None:
        """A stream's chunks have a log stream of their own, named by its request; facts may stand between them."""
        for event_id, node in run.requests.items():
            spec = self._registry.events.get(node.name)
            if spec is not None and spec.kind == "stream":
                stream = f"{spec.declaration.category or node.name.partition(':')[0]}/{event_id}"
                run.count_chunks(node, await self._log.version(stream) - run.facts_in[stream])


def _of(run: str) -> tuple[Filter, ...]:
    return (Filter(correlation_id=run, kinds=LINKED),)
