"""Branches of a log: who was cut off whom, and where.

They are facts of the stream ``$branches`` on main. A fork copies nothing: a branch reads its ancestors up to its cut.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ksi.core.errors import ConflictError, NotFoundError, ValidationError
from ksi.core.events import MAIN, Position, Query, RecordedEvent, fact
from ksi.core.views import Page, View
from ksi.store.memory_shelf import MemoryShelf
from ksi.store.sight import MAIN_ONLY, Sight
from ksi.store.views import KeptView, KeptViewReader, Place

R = TypeVar("R")
STREAM = "$branches"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@fact("branch:was_forked")
class BranchWasForked(msgspec.Struct, frozen=True):
    """``branch`` sees ``parent`` up to ``at``."""

    branch: str
    parent: str
    at: int


@fact("branch:was_discarded")
class BranchWasDiscarded(msgspec.Struct, frozen=True):
    """``branch`` is read and written no more; its name is not given again."""

    branch: str


@fact("branch:was_materialized")
class BranchWasMaterialized(msgspec.Struct, frozen=True):
    """Read models of ``branch`` have tables from now on."""

    branch: str


class Branches:
    """All branches of a log, as ``$branches`` tells."""

    def __init__(self) -> None:
        self._forks: dict[str, BranchWasForked] = {}
        self._discarded: set[str] = set()
        self._materialized: set[str] = set()

    def see(self, events: Iterable[RecordedEvent]) -> None:
        """Take in what was recorded."""
        for event in events:
            if event.name == "branch:was_forked":
                fork = event.into(BranchWasForked)
                self._forks[fork.branch] = fork
            elif event.name == "branch:was_discarded":
                self._discarded.add(event.into(BranchWasDiscarded).branch)
            elif event.name == "branch:was_materialized":
                self._materialized.add(event.into(BranchWasMaterialized).branch)

    def forks(self) -> list[BranchWasForked]:
        """Those that are not discarded, in the order in which they were made."""
        return [fork for fork in self._forks.values() if fork.branch not in self._discarded]

    def fork_of(self, branch: str) -> BranchWasForked:
        """Raises NotFoundError where there is no such branch, or none any more."""
        fork = self._forks.get(branch)
        if fork is None or branch in self._discarded:
            raise NotFoundError("branch", branch)
        return fork

    def stands(self, branch: str) -> bool:
        """Whether it is there, and not discarded."""
        return branch == MAIN or (branch in self._forks and branch not in self._discarded)

    def is_materialized(self, branch: str) -> bool:
        return branch in self._materialized

    def sight(self, branch: str) -> Sight:
        """What is seen from ``branch``."""
        if branch == MAIN:
            return MAIN_ONLY
        cuts, cut = {branch: sys.maxsize}, sys.maxsize
        fork = self.fork_of(branch)
        while True:
            cut = min(cut, fork.at)
            cuts[fork.parent] = cut
            if fork.parent == MAIN:
                return Sight(cuts)
            fork = self._forks[fork.parent]  # also of a parent that was discarded: what was seen of it stays

    def new(self, branch: str, parent: str, at: int, *, head: int) -> BranchWasForked:
        """The fork, where it is possible.

        Raises:
            ValidationError: No name of a branch, or a position that there is not.
            ConflictError: The name was given before.
            NotFoundError: The parent does not exist.
        """
        if not _NAME.fullmatch(branch):
            raise ValidationError(f"{branch!r} is no name of a branch: letters, digits, dots, dashes")
        if branch == MAIN or branch in self._forks:
            raise ConflictError(f"there is, or was, a branch {branch!r}: take another name", branch=branch)
        first = 0 if parent == MAIN else self.fork_of(parent).at
        if not first <= at <= head:
            raise ValidationError(f"{parent!r} can be forked from @{first} to @{head}, not at @{at}")
        return BranchWasForked(branch, parent, at)


class Source(Protocol):
    """The log that a branch's views are folded from."""

    def visible_head(self) -> int: ...
    def read_all(
        self, query: Query, *, after: Position, until: Position, branch: str
    ) -> AsyncIterator[RecordedEvent]: ...


class KeptRecords(Protocol):
    """Where records of a view on a branch are kept on disk."""

    kept: KeptView

    @property
    def position(self) -> int:
        """Where they stand."""

    async def note(self, position: int) -> None:
        """They stand at ``position`` now."""

    async def write(self, position: int) -> None:
        """The same, on disk when this returns. Raises UnavailableError."""


class BranchView(Generic[R]):
    """A view on a branch, folded when it is read: in memory, or where the branch was materialized into ``table``.

    Implements :class:`~ksi.core.views.ViewReader`.
    """

    def __init__(self, source: Source, view: type[View[R]], branch: str, table: KeptRecords | None = None) -> None:
        self._source = source
        self._view = view
        self._branch = branch
        self._table = table
        self._position = Position(0 if table is None else table.position)
        self._turn = asyncio.Lock()
        place_of = Place(view)
        self._kept = KeptView(view(), MemoryShelf(place_of), place_of) if table is None else table.kept

    async def write(self) -> None:
        """Have the table stand at the head. Raises UnavailableError."""
        await self._current()
        async with self._turn:
            if self._table is not None:
                await self._table.write(self._position)

    async def get(self, *key: Any) -> R | None:
        return await (await self._current()).get(*key)

    async def scan(self, index: str | None = None, *prefix: Any, **how: Any) -> Page[R]:
        return await (await self._current()).scan(index, *prefix, **how)

    async def _current(self) -> KeptViewReader[R]:
        async with self._turn:
            head = Position(self._source.visible_head())
            if head > self._position:
                await self._fold(head)
        return KeptViewReader(self._kept)

    async def _fold(self, head: Position) -> None:
        events = self._source.read_all(self._view.query, after=self._position, until=head, branch=self._branch)
        async for event in events:
            for change in self._kept.apply([event]):
                self._kept.show(change)
            self._position = event.position
            if self._table is not None:
                await self._table.note(self._position)
        self._position = head
