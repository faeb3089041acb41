"""How two branches differ."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import NotFoundError
from ksi.core.events import BranchInfo, Filter, Position
from ksi.core.ports import EventLog
from ksi.core.views import EntityFold
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.structure import Difference, differences

ENTITIES_MAX = 1_000
"""Entities that one comparison looks at."""
FoldOf = Callable[[str], EntityFold[Any] | None]


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


async def compare_branches(log: EventLog, fold_of: FoldOf, one: str, other: str) -> BranchDiff:
    """How the entities of two branches differ. Raises NotFoundError where there is no such branch."""
    branches = {info.name: info for info in await log.branches()}
    since = Position(min(_parted(branches, one, other), await log.head() or 0))
    ours, theirs = await _written(log, one, since), await _written(log, other, since)
    entities = sorted(entity for entity in {*ours, *theirs} if ours.get(entity) != theirs.get(entity))[:ENTITIES_MAX]
    compared = [Compared(entity, await _compare(log, fold_of, entity, one, other)) for entity in entities]
    return BranchDiff(one, other, since, [each for each in compared if each.differences])


async def _compare(log: EventLog, fold_of: FoldOf, entity: str, *branches: str) -> list[Difference]:
    states = []
    for branch in branches:
        try:
            states.append((await TimeTravelDebugger(log, fold_of, branch=branch).entity_at(entity)).state)
        except NotFoundError:  # there it has no facts
            states.append(None)
    return differences(*states)


async def _written(log: EventLog, branch: str, since: Position) -> dict[str, bytes]:
    """What was said of each entity behind ``since``, as a digest: where it is the same, so is the entity."""
    found: dict[str, Any] = {}
    async for event in log.read_all((Filter(kinds=("fact", "chunk")),), after=since, branch=branch):
        if not event.stream.startswith("$"):
            digest = found.setdefault(event.stream, hashlib.blake2b(digest_size=16))
            digest.update(canonical.encode([event.kind, event.name]) + event.raw)
    return {stream: digest.digest() for stream, digest in found.items()}


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
