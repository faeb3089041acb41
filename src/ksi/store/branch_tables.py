"""Tables of a branch's read models, for a branch that was materialized: on SQLite."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import apsw

from ksi.core.errors import UnavailableError
from ksi.core.threads import Threads
from ksi.core.views import View
from ksi.store.shelf import SqliteShelf
from ksi.store.sight import MARK, marked
from ksi.store.swap import drop_aside, set_aside
from ksi.store.views import KeptView, Place
from ksi.store.writer import Writer

BEHIND_MAX = 4_096
"""Positions that a table may be behind its view in memory: so many are folded again after a start, at most."""


class BranchTable:
    """The table of one view on one branch: it stands at a position of its own, and is written when it is read."""

    def __init__(self, kept: KeptView, shelf: SqliteShelf, threads: Threads, writer: Writer) -> None:
        self.kept = kept
        self._shelf = shelf
        self._threads = threads
        self._writer = writer

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
            await self._threads.run("writer", partial(self._writer.flush_views, [self._shelf]))
        except UnavailableError:
            self._shelf.failed()
            raise
        self._shelf.written()
        self._shelf.position = position


class TableOwner(Protocol):
    """The log as this sees it."""

    def forget_branch_view(self, branch: str, view: View[Any]) -> None: ...


def branch_table(
    owner: TableOwner, connection: apsw.Connection, threads: Threads, writer: Writer, view: type[View[Any]], branch: str
) -> BranchTable:
    """The table of ``view`` on ``branch``; a damaged one is forgotten, and folded again by the next read."""
    kind = type(f"{view.__name__}OnBranch", (view,), {"name": marked(view.name, branch), "inline": True})
    instance, place_of = kind(), Place(kind)
    shelf = SqliteShelf(connection, instance, place_of)

    def forget(name: str) -> None:
        forget_table(writer, name)
        owner.forget_branch_view(branch, view())

    shelf.on_damage = forget
    return BranchTable(KeptView(instance, shelf, place_of), shelf, threads, writer)


def forget_table(writer: Writer, name: str) -> None:
    writer.within(partial(set_aside, name))
    writer.within(partial(drop_aside, name))


def tables_of(connection: apsw.Connection, branch: str | None = None) -> Sequence[str]:
    """Names of views that have tables on ``branch``; None: on any."""
    names = [str(name) for (name,) in connection.execute("SELECT name FROM views")]
    begins = "" if branch is None else f"{branch}{MARK}"
    return [name for name in names if MARK in name and name.startswith(begins)]
