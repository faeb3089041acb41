"""Tables of a branch's read models, for a branch that was materialized."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from ksi.core.errors import UnavailableError
from ksi.core.threads import Threads
from ksi.core.views import View
from ksi.store.shelf import BufferedShelf
from ksi.store.sight import MARK, marked
from ksi.store.views import KeptView, Place

Write = Callable[[Sequence[Any]], None]
"""Writes shelves, in the writer's lane."""
BEHIND_MAX = 4_096
"""Positions that a table may be behind its view in memory: so many are folded again after a start, at most."""


class BranchTable:
    """The table of one view on one branch: it stands at a position of its own, and is written when it is read."""

    def __init__(self, kept: KeptView, shelf: BufferedShelf, threads: Threads, write: Write) -> None:
        self.kept = kept
        self._shelf = shelf
        self._threads = threads
        self._write = write

    @property
    def position(self) -> int:
        return self._shelf.position or 0

    async def note(self, position: int) -> None:
        """The records stand at ``position``. They are written where that saves much; a full disk does not matter."""
        if position - self.position >= BEHIND_MAX:
            with contextlib.suppress(UnavailableError):
                await self.write(position)

    async def write(self, position: int) -> None:
        """The same, and they are written in any case. Raises UnavailableError."""
        self._shelf.begin(position)
        try:
            await self._threads.run("writer", partial(self._write, [self._shelf]))
        except UnavailableError:
            self._shelf.failed()
            raise
        self._shelf.written()
        self._shelf.position = position


class TableOwner(Protocol):
    """The log as this sees it."""

    def forget_branch_view(self, branch: str, view: View[Any]) -> None: ...
    def forget_table(self, name: str) -> None:
        """Drop the records of the view ``name``. Raises UnavailableError."""


def branch_table(
    owner: TableOwner,
    new_shelf: Callable[[View[Any], Place], BufferedShelf],
    threads: Threads,
    write: Write,
    view: type[View[Any]],
    branch: str,
) -> BranchTable:
    """The table of ``view`` on ``branch``; a damaged one is forgotten, and folded again by the next read."""
    kind = type(f"{view.__name__}OnBranch", (view,), {"name": marked(view.name, branch), "inline": True})
    instance, place_of = kind(), Place(kind)
    shelf = new_shelf(instance, place_of)

    def forget(name: str) -> None:
        owner.forget_table(name)
        owner.forget_branch_view(branch, view())

    shelf.on_damage = forget
    return BranchTable(KeptView(instance, shelf, place_of), shelf, threads, write)


def on_branches(views: Iterable[str], branch: str | None = None) -> list[str]:
    """Of the names ``views`` those that are of tables on ``branch``; None: on any."""
    begins = "" if branch is None else f"{branch}{MARK}"
    return [name for name in views if MARK in name and name.startswith(begins)]
