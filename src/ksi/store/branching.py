"""Forking a log, and reading it from a branch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ksi.core import canonical
from ksi.core.errors import UnsupportedError
from ksi.core.events import MAIN, Appended, BranchInfo, Filter, NewEvent, Position, RecordedEvent, fact_name
from ksi.core.views import View
from ksi.store.archives import Archives
from ksi.store.branches import (
    STREAM,
    Branches,
    BranchView,
    BranchWasDiscarded,
    BranchWasForked,
    BranchWasMaterialized,
    KeptRecords,
)
from ksi.store.cursor import Cursor
from ksi.store.query import KINDS, Compiled, StreamRange
from ksi.store.reading import PAGE_MAX, LogReads
from ksi.store.sight import MAIN_ONLY, Sight, split
from ksi.store.tail import RowSource

R = TypeVar("R")
_ALL = (Filter(kinds=KINDS),)


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

    def branch_view(self, view: type[View[R]], branch: str) -> BranchView[R]:
        """A view as it is on ``branch``; kept, so that it is folded once. Raises NotFoundError."""
        self.sight(branch)
        key = (branch, f"{view.name}/{view.version}")
        found = self._branch_views.get(key)
        if found is None:
            table = self._branch_table(view, branch) if self._known_branches().is_materialized(branch) else None
            found = self._branch_views[key] = BranchView(self, view, branch, table)
        return found

    def _branch_table(self, view: type[View[Any]], branch: str) -> KeptRecords:
        """Where the records of ``view`` on ``branch`` are kept on disk. Raises UnsupportedError."""
        raise UnsupportedError("this log keeps tables of read models on main only")

    def forget_branch_view(self, branch: str, view: View[Any]) -> None:
        """What is read of it next is folded again."""
        self._branch_views.pop((branch, f"{view.name}/{view.version}"), None)

    async def _materialize(self, branch: str, views: Sequence[type[View[Any]]]) -> None:
        self._known_branches().fork_of(branch)
        for view in views:
            self._branch_table(view, branch)  # where there are none this says so
        if not self._known_branches().is_materialized(branch):
            await self._record(BranchWasMaterialized(branch))
            self._branch_views = {key: kept for key, kept in self._branch_views.items() if key[0] != branch}
        for view in views:
            await self.branch_view(view, branch).write()

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
        main = await self.last_envelope(Compiled(_ALL))
        seen = [split(name) for name in self.stored_source().names()]
        infos = [BranchInfo(MAIN, None, None, None if main is None else main.position)]
        for fork in self._known_branches().forks():
            own = tuple(name for branch, name in seen if branch == fork.branch)
            last = await self._last(fork, own)
            infos.append(
                BranchInfo(fork.branch, fork.parent, Position(fork.at), None if last is None else last.position)
            )
        return infos

    async def _last(self, fork: BranchWasForked, own: tuple[str, ...]) -> RecordedEvent | None:
        """The last event that is seen from a branch; ``own`` are the names of events that were recorded on it.

        It is found by keys: what was recorded elsewhere since the cut may be the most of the log.
        """
        sight = self.sight(fork.branch)
        if not own:
            return await self.last_envelope(Compiled(_ALL, sight), until=fork.at)
        return await self.last_envelope(Compiled([Filter(names=own, kinds=("fact", "request", "outcome"))], sight))
