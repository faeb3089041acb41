"""Branches of the log as events: fork, list, compare, discard.

A request says by its envelope on which branch it runs: what it reads, writes and asks for is of that branch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.errors import ConflictError, NotFoundError
from ksi.core.events import MAIN, BranchInfo, Filter, Position
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.plugins.shapes import Place, optional_position
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.structure import Difference, differences

BranchName = Annotated[str, Meta(description="letters, digits, dots and dashes")]
ENTITIES_MAX = 1_000
"""Entities that one comparison looks at."""


class ShownBranch(msgspec.Struct, frozen=True):
    """``forked_at`` is where it was cut off its parent; both are null for main. ``head`` is its last event."""

    name: str
    parent: str | None
    forked_at: int | None
    head: int | None


class ShownBranches(msgspec.Struct, frozen=True):
    branches: list[ShownBranch]


class Compared(msgspec.Struct, frozen=True):
    """How one entity differs."""

    entity: str
    differences: list[Difference]


class BranchDiff(msgspec.Struct, frozen=True):
    """Entities that are not the same, of those that either branch has written since ``since``, where they parted."""

    one: str
    other: str
    since: int
    entities: list[Compared]


class Branch(AsyncPlugin):
    """Forks the log, and says how branches differ."""

    name = "branch"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @event(
        "store:fork",
        durability="before",
        on_crash="rerun",
        errors=["conflict", "not_found"],
        examples=[{"name": "experiment", "at": "@1234"}],
    )
    async def fork(
        self,
        name: BranchName,
        context: EventContext,
        at: Annotated[Place | None, Meta(description="the last position that it sees; the head where not said")] = None,
        parent: Annotated[str, Meta(description="the branch that it is cut off")] = MAIN,
    ) -> ShownBranch:
        """Cut a branch off another: it sees what there was up to a position, and goes on by itself."""
        cut = optional_position(at)
        if cut is None:
            cut = await self._log.head() or Position(0)
        try:
            await self._log.fork(cut, name, parent=parent)
        except ConflictError:  # perhaps made by this very request, before a crash
            found = (await self._branches()).get(name)
            if found is None or (found.parent, found.forked_at) != (parent, cut):
                raise
        return ShownBranch(name, parent, cut, cut)

    @query("store:branches", examples=[{}])
    async def list_branches(self) -> ShownBranches:
        """List the branches, main first."""
        return ShownBranches([_shown(info) for info in (await self._branches()).values()])

    @event(
        "store:discard",
        durability="before",
        on_crash="rerun",
        errors=["not_found"],
        examples=[{"name": "experiment"}],
    )
    async def discard(self, name: BranchName) -> ShownBranch:
        """Read and write a branch no more; its name is not given again."""
        found = (await self._branches()).get(name)
        if found is None or name == MAIN:
            raise NotFoundError("branch", name)
        await self._log.discard(name)
        return _shown(found)

    @query("store:diff", errors=["not_found"], examples=[{"one": "main", "other": "experiment"}])
    async def diff(self, one: BranchName, other: BranchName) -> BranchDiff:
        """Say how the entities of two branches differ, of those that were written since they parted."""
        branches = await self._branches()
        since = Position(min(_parted(branches, one, other), await self._log.head() or 0))
        entities = sorted({*await self._written(one, since), *await self._written(other, since)})[:ENTITIES_MAX]
        compared = [await self._compare(entity, one, other) for entity in entities]
        return BranchDiff(one, other, since, [each for each in compared if each.differences])

    async def _compare(self, entity: str, one: str, other: str) -> Compared:
        fold_of = self.host.services.get(Plugins).fold_of
        states = []
        for branch in (one, other):
            try:
                states.append((await TimeTravelDebugger(self._log, fold_of, branch=branch).entity_at(entity)).state)
            except NotFoundError:  # it has it not
                states.append(None)
        return Compared(entity, differences(*states))

    async def _written(self, branch: str, since: Position) -> set[str]:
        everything = (Filter(kinds=("fact", "chunk")),)
        found = {event.stream async for event in self._log.read_all(everything, after=since, branch=branch)}
        return {stream for stream in found if not stream.startswith("$")}

    async def _branches(self) -> Mapping[str, BranchInfo]:
        return {info.name: info for info in await self._log.branches()}


def _parted(branches: Mapping[str, BranchInfo], one: str, other: str) -> int:
    """Up to where both see the same."""
    cuts, others = _cuts(branches, one), _cuts(branches, other)
    common = [min(cut, others[name]) for name, cut in cuts.items() if name in others]
    return max(common, default=0)


def _cuts(branches: Mapping[str, BranchInfo], name: str) -> dict[str, int]:
    """The branch and its ancestors, with the position up to which each is seen."""
    if name not in branches:
        raise NotFoundError("branch", name)
    cut = sys.maxsize
    found, info = {name: cut}, branches[name]
    while info.parent is not None:
        found[info.parent] = cut = min(cut, info.forked_at or 0)
        if info.parent not in branches:  # it was discarded: what lies behind it is not told
            break
        info = branches[info.parent]
    return found


def _shown(info: BranchInfo) -> ShownBranch:
    return ShownBranch(info.name, info.parent, info.forked_at, info.head)
