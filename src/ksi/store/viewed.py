"""The part of a log that keeps views: registering them, bringing them to the head, putting one in another's place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from ksi.core.clock import Clock
from ksi.core.errors import NotFoundError, UnsupportedError
from ksi.core.events import MAIN
from ksi.core.views import View, ViewReader
from ksi.store.cursor import Cursor
from ksi.store.projections import LogProjections
from ksi.store.reading import PAGE_MAX
from ksi.store.row import events_of
from ksi.store.subscribers import SubscribedLog
from ksi.store.views import BESIDE, KeptView, KeptViewReader, Place, Shelf, ViewBook

R = TypeVar("R")
FOLD_AT_ONCE = 50_000
"""Positions that a view which is registered may be behind and is still folded in that turn of the loop: 0.3 s."""


class ViewedLog(SubscribedLog):
    """Views, inline and behind."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._views = ViewBook()
        self.projections = LogProjections(self, self._views)

    @abstractmethod
    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        """Where the records of ``view`` are, and the position that they stand at."""

    def register(self, view: type[View[Any]]) -> None:
        instance, place_of = view(), Place(view)
        shelf, position = self._shelf(instance, place_of)
        kept = KeptView(instance, shelf, place_of)
        self.projections.forget(view.name)
        if not view.inline:
            self.projections.begin(kept, position)
        elif self._decider.visible - position > FOLD_AT_ONCE:
            self.projections.catch_up(kept, position)
        else:
            self.fold_view(kept, position)
        self._views.add(kept)

    def fold_view(self, kept: KeptView, position: int) -> None:
        """Bring ``kept`` from ``position`` to the head, and under it what is under way."""
        cursor = Cursor(kept.query, after=position, until=self._decider.visible)
        while not cursor.at_end:
            page = self.readable(cursor.page(self.stored_source(), PAGE_MAX))
            for change in kept.apply_again(page, passes_over=self.vault.has_erased):
                kept.show(change)
            self._folded(kept, cursor.position)
        for decided in self._decider.pending:
            if decided.row is not None:
                events = self.readable(kept.query.chosen(events_of(decided.row)))
                decided.changes = [*decided.changes, *kept.apply(events)]

    def _folded(self, kept: KeptView, position: int) -> None:  # not every backend writes it down
        """``kept`` stands at ``position``, on its way to the head."""

    def unregister(self, view: type[View[Any]]) -> None:
        self.projections.forget(view.name)
        self._views.remove(view.name)

    def view_stands(self, kept: KeptView, position: int) -> None:  # not every backend writes it down
        """What ``kept`` shows holds all up to ``position``."""

    async def views_written(self) -> None:  # the same
        """Until all records are on disk that are changed now. Raises UnavailableError where they can not be."""

    async def view_beside(self, kept: KeptView) -> KeptView:
        """The same view with no record yet, in a place of its own."""
        kind = type(kept.view)
        beside = type(f"{kind.__name__}Beside", (kind,), {"name": f"{kept.view.name}{BESIDE}"})
        instance, place_of = beside(), Place(beside)
        new = KeptView(instance, self._shelf(instance, place_of)[0], place_of)
        await self.clear_view(new)  # of what a crash left of an earlier one
        return new

    async def clear_view(self, kept: KeptView) -> None:
        """Forget all its records."""
        raise UnsupportedError("this log can not build views anew")

    async def _put_in_place(self, old: KeptView, new: KeptView) -> None:
        """Give the records of ``new`` the place that those of ``old`` have; waits only before that."""
        raise UnsupportedError("this log can not build views anew")

    async def swap_views(self, old: KeptView, new: KeptView) -> None:
        """Let ``new`` take the place of ``old``, for readers too; both have seen the same facts."""
        await self._put_in_place(old, new)
        self._views.remove(new.view.name)
        for decided in self._decider.pending:
            decided.changes = [change for change in decided.changes if change.kept is not old]
        new.view, old.shelf = old.view, new.shelf  # somebody may hold a reader of the old one
        self._views.add(new)

    async def materialize(self, branch: str) -> Sequence[str]:
        kept = self._views.shown()
        await self._materialize(branch, [type(one.view) for one in kept])
        return sorted(one.view.name for one in kept)

    def view(self, view: type[View[R]], *, branch: str = MAIN) -> ViewReader[R]:
        kept = self._views.kept.get(view.name)
        # By name and version: a generation of a plugin that drains asks for the same view with a class of its own.
        if kept is None or kept.view.version != view.version:
            raise NotFoundError("view", view.name)
        return KeptViewReader(kept) if branch == MAIN else self.branch_view(view, branch)
