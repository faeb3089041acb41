"""Branches of the log as events: fork, list, compare, discard.

A request says by its envelope on which branch it runs: what it reads, writes and asks for is of that branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from ksi.core.errors import ConflictError, NotFoundError
from ksi.core.events import MAIN, BranchInfo, Position
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.kernel.router import Router
from ksi.plugins.shapes import Place, optional_position
from ksi.store.compare import BranchDiff, compare_branches

BranchName = Annotated[str, Meta(description="letters, digits, dots and dashes")]


class ShownBranch(msgspec.Struct, frozen=True):
    """``forked_at`` is where it was cut off its parent; both are null for main. ``head`` is its last event."""

    name: str
    parent: str | None
    forked_at: int | None
    head: int | None


class ShownBranches(msgspec.Struct, frozen=True):
    branches: list[ShownBranch]


class Materialized(msgspec.Struct, frozen=True):
    """The read models of a branch that have tables now."""

    name: str
    views: list[str]


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
        at: Annotated[
            Place | None, Meta(description="the last position that it sees; the one before this request where not said")
        ] = None,
        parent: Annotated[str, Meta(description="the branch that it is cut off")] = MAIN,
    ) -> ShownBranch:
        """Cut a branch off another: it sees what there was up to a position, and goes on by itself."""
        cut = optional_position(at)
        if cut is None:  # seen once, so that a rerun after a crash cuts at the same place
            cut = Position(await context.observe("log:head", {}, partial(self._before, context.event_id)))
        asked = {"name": name, "at": cut, "parent": parent}
        await context.effect("store:fork", asked, partial(self._fork, name, cut, parent), idempotent=True)
        return ShownBranch(name, parent, cut, cut)

    @query("store:branches", examples=[{}])
    async def list_branches(self) -> ShownBranches:
        """List the branches, main first."""
        return ShownBranches([_shown(info) for info in (await self._branches()).values()])

    @event(
        "store:discard",
        durability="before",
        on_crash="rerun",
        errors=["conflict", "not_found"],
        examples=[{"name": "experiment"}],
    )
    async def discard(self, name: BranchName, context: EventContext) -> ShownBranch:
        """Read and write a branch no more; its name is not given again. What runs there is cancelled first."""
        if name == context.branch != MAIN:
            raise ConflictError(f"this request is on {name} itself: ask for it on another branch", branch=name)
        discarded: ShownBranch = await context.effect(
            "store:discard", {"name": name}, partial(self._discard, name), result=ShownBranch, idempotent=True
        )
        return discarded

    @event(
        "store:materialize",
        durability="before",
        on_crash="rerun",
        timeout=None,
        errors=["not_found", "unavailable", "unsupported"],
        examples=[{"name": "experiment"}],
    )
    async def materialize(self, name: BranchName, context: EventContext) -> Materialized:
        """Keep a branch's read models in tables, as those of main: what is read there is not folded at each start."""
        made: Materialized = await context.effect(
            "store:materialize", {"name": name}, partial(self._materialize, name), result=Materialized, idempotent=True
        )
        return made

    @query("store:diff", errors=["not_found"], examples=[{"one": "main", "other": "experiment"}])
    async def diff(self, one: BranchName, other: BranchName) -> BranchDiff:
        """Say how the entities of two branches differ, of those that were written since they parted."""
        return await compare_branches(self._log, self.host.services.get(Plugins).fold_of, one, other)

    async def _before(self, event_id: str) -> int:
        """The position in front of the request itself, which would be open on the branch for ever."""
        own = await self._log.get(UUID(event_id))
        assert own is not None  # it is recorded before its handler runs
        return own.position - 1

    async def _fork(self, name: str, cut: Position, parent: str) -> None:
        try:
            await self._log.fork(cut, name, parent=parent)
        except ConflictError:  # perhaps made by this very request, before a crash
            found = (await self._branches()).get(name)
            if found is None or (found.parent, found.forked_at) != (parent, cut):
                raise

    async def _materialize(self, name: str) -> Materialized:
        return Materialized(name, list(await self._log.materialize(name)))

    async def _discard(self, name: str) -> ShownBranch:
        found = (await self._branches()).get(name)
        if found is None or name == MAIN:
            raise NotFoundError("branch", name)
        await self.host.services.get(Router).cancel_on(name)
        await self._log.discard(name)
        return _shown(found)

    async def _branches(self) -> Mapping[str, BranchInfo]:
        return {info.name: info for info in await self._log.branches()}


def _shown(info: BranchInfo) -> ShownBranch:
    return ShownBranch(info.name, info.parent, info.forked_at, info.head)
