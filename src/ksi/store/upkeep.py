"""What is kept in memory first and written later: keys a generation at a time, views together, the WAL when it is long.

All of it runs in the writer's lane between batches. A failure is told to the store like that of a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ksi.core.threads import Threads
from ksi.store.segments import Generations
from ksi.store.shelf import BufferedShelf
from ksi.store.writer import Writer

CHANGES_MAX = 4_096
"""Changed records of views at which they are written."""
VIEWS_DELAY = 1.0
"""Seconds after which they are written anyway."""


class KeptViews(Protocol):
    """The store as the upkeep of its views sees it."""

    def visible_head(self) -> int: ...
    def shelves(self) -> Sequence[BufferedShelf]: ...
    def failed(self, error: BaseException) -> None: ...


class Kept(KeptViews, Protocol):
    """The store as its upkeep sees it."""

    def keys_flushed(self) -> None: ...


class ViewUpkeep:
    """Looks after each batch whether changed records are due. ``write`` stores them, in the writer's lane."""

    def __init__(self, store: KeptViews, threads: Threads, write: Callable[[Sequence[Any]], None]) -> None:
        self._store = store
        self._threads = threads
        self.write = write
        self._views: Sequence[BufferedShelf] = ()
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        changes = sum([shelf.changes for shelf in self._store.shelves()])
        if changes >= CHANGES_MAX:
            self.flush_views()
        elif changes and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(VIEWS_DELAY, self.flush_views)

    def stop(self) -> None:
        """No timer will fire any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_flushing(self) -> bool:
        """Whether records are being written."""
        return bool(self._views)

    def being_written(self, name: str) -> BufferedShelf | None:
        """The shelf of the view ``name`` whose records are being written."""
        return next((shelf for shelf in self._views if shelf.name == name), None)

    def flush_views(self) -> None:
        """Write what is changed, and for every view that it stands at the head."""
        self.stop()
        if self._views:
            return
        self._views = self._store.shelves()
        for shelf in self._views:
            shelf.begin(self._store.visible_head())
        job = partial(self.write, self._views)
        self._threads.submit("writer", job, self._views_written)

    def _views_written(self, _: None, error: BaseException | None) -> None:
        views, self._views = self._views, ()
        for shelf in views:
            shelf.written() if error is None else shelf.failed()
        if error is not None:
            self._store.failed(error)


class Upkeep(ViewUpkeep):
    """Of all that the SQLite log keeps in memory first."""

    def __init__(self, store: Kept, threads: Threads, writer: Writer, generations: Generations) -> None:
        super().__init__(store, threads, writer.flush_views)
        self._kept = store
        self._writer = writer
        self._generations = generations
        self._copying = False

    def look(self) -> None:
        if self._generations.is_full:
            self.flush_keys()
        super().look()
        if self._writer.wants_checkpoint and not self._copying:
            self._copying = True
            self._threads.submit("writer", self._writer.checkpoint, self._copied)

    def flush_keys(self) -> None:
        tail = self._generations.begin()
        self._threads.submit("writer", partial(self._writer.flush_keys, tail), self._keys_written)

    def _keys_written(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            self._generations.failed()
            self._store.failed(error)
            return
        self._generations.written()
        self._kept.keys_flushed()

    def _copied(self, _: None, error: BaseException | None) -> None:
        self._copying = False
