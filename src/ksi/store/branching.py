"""Forking a log, and reading it from a branch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ksi.core import canonical
from ksi.core.events import MAIN, Appended, BranchInfo, Filter, NewEvent, Position, fact_name
from ksi.core.views import View, ViewReader
from ksi.store.archives import Archives
from ksi.store.branches import STREAM, Branches, BranchView, BranchWasDiscarded
from ksi.store.cursor import Cursor
from ksi.store.query import KINDS, Compiled, StreamRange
from ksi.store.reading import PAGE_MAX, LogReads
from ksi.store.sight import MAIN_ONLY, Sight
from ksi.store.tail import RowSource

R = TypeVar("R")


class BranchedLog(LogReads):
    """The part of a log that knows its branches. They are read from the log when one is first asked for."""

    def __init__(self) -> None:
        self.archives = Archives()
        self._branches: Branches | None = None
        self._branch_views: dict[tuple[str, str], BranchView[Any]] = {}

    @abstractmethod
    def stored_source(self) -> RowSource: ...

    @abstractmethod
    async def append(self, stream: str, events: Sequence[NewEvent]) -> Appended: ...

    @abstractmethod
    def visible_head(self) -> int: ...

    def _known_branches(self) -> Branches:
        if self._branches is None:
            self._branches = Branches()
            cursor = Cursor(StreamRange(STREAM, 1, None), after=0, until=self.visible_head())
            while not cursor.at_end:
                self._branches.see(cursor.page(self.stored_source(), PAGE_MAX))
        return self._branches

    def sight(self, branch: str) -> Sight:
        return MAIN_ONLY if branch == MAIN else self._known_branches().sight(branch)

    def branch_view(self, view: type[View[R]], branch: str) -> ViewReader[R]:
        """A view as it is on ``branch``; kept, so that it is folded once. Raises NotFoundError."""
        self.sight(branch)
        key = (branch, f"{view.name}/{view.version}")
        found = self._branch_views.get(key)
        if found is None:
            found = self._branch_views[key] = BranchView(self, view, branch)
        return found

    async def fork(self, at: Position, name: str, *, parent: str = MAIN) -> str:
        """Cut ``name`` off ``parent`` behind ``at``: it sees what there was up to then, and goes on by itself.

        Nothing is copied.

        Raises:
            ValidationError: No name of a branch, or no position of the parent.
            ConflictError: The name was given before.
            NotFoundError: The parent does not exist.
        """
        await self._record(self._known_branches().new(name, parent, at, head=self.visible_head()))
        return name

    async def discard(self, branch: str) -> None:
        """Read and write ``branch`` no more.

        Raises:
            NotFoundError: There is none, or it is ``main``.
        """
        self._known_branches().fork_of(branch)
        await self._record(BranchWasDiscarded(branch))
        self._branch_views = {key: view for key, view in self._branch_views.items() if key[0] != branch}

    async def _record(self, fact: msgspec.Struct) -> None:
        named = fact_name(type(fact))
        assert named is not None
        await self.append(STREAM, [NewEvent(name=named[0], data=canonical.encode(fact))])
        self._branches = None

    async def branches(self) -> Sequence[BranchInfo]:
        """``main`` first, then those that are not discarded, in the order in which they were made."""
        main = BranchInfo(MAIN, None, None, await self._last(MAIN))
        forks = self._known_branches().forks()
        return [
            main,
            *[BranchInfo(one.branch, one.parent, Position(one.at), await self._last(one.branch)) for one in forks],
        ]

    async def _last(self, branch: str) -> Position | None:
        event = await self.last_envelope(Compiled([Filter(kinds=KINDS)], self.sight(branch)))
        return None if event is None else event.position
