"""What the logs that lie on disk have in common beside their writing: readers in threads, and views in tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import apsw

from ksi.core.errors import StoreClosedError, UnavailableError
from ksi.core.events import Archive, ArchiveCategory, Attached, Position, RecordedEvent
from ksi.core.threads import SystemThreads, Threads
from ksi.core.views import View
from ksi.store.archiving import Archiving
from ksi.store.branch_tables import BranchTable, branch_table, on_branches
from ksi.store.cursor import Cursor
from ksi.store.log import LoopLog
from ksi.store.segments import Generations, Segments, StoredRows
from ksi.store.shelf import BufferedShelf
from ksi.store.upkeep import CHANGES_MAX, ViewUpkeep
from ksi.store.views import KeptView, Place

T = TypeVar("T")


class Closing(Protocol):
    """A connection that reads."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closing)
B = TypeVar("B", bound=BufferedShelf)
D = TypeVar("D", bound="DiskLog[Any, Any]")


class DiskLog(LoopLog, Generic[C, B]):
    """A log that is read through connections ``C``, one for the loop and one for each thread that reads.

    Its views are on shelves ``B``.
    """

    _threads: Threads
    _failed: bool
    _generations: Generations
    _point: C
    """For what is asked on the loop."""
    _readers: list[C]
    _shelves: dict[str, B]
    _upkeep: ViewUpkeep
    _archiving: Archiving

    # ── what a backend says ──────────────────────────────────────────────────────────────────────────────────────────
    @abstractmethod
    def _connected(self) -> C:
        """One more connection for reading."""

    @abstractmethod
    def _table(self, connection: C, flushed: int) -> StoredRows:
        """The rows up to ``flushed``."""

    @abstractmethod
    def _exchange(self, name: str, shelf: B) -> None:
        """Write what ``shelf`` has begun, in place of the records of the view ``name``. Raises UnavailableError."""

    @abstractmethod
    async def close(self) -> None:
        """Write what is in memory, and give the log back. What is under way gets its end first."""

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def stored_source(self) -> Segments:
        if self.closed and not self._decider.pending:
            raise StoreClosedError
        return self._segments()(self._point)

    def _segments(self) -> Callable[[C], Segments]:
        """The log as it stands now, for whoever reads it, in whatever thread."""
        flushed, tails = self._generations.flushed, self._generations.tails()
        return lambda connection: Segments(self._table(connection, flushed), flushed, tails)

    def stored_version(self, stream: str) -> int:
        return self._table(self._point, self._generations.flushed).last_version(stream)

    def stored_heads(self) -> dict[str, int]:
        return self._generations.heads()

    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]:
        if cursor.low >= self._generations.unpacked_from:
            return self.readable(cursor.page(self.stored_source(), count), cursor)  # all of it is in memory
        segments = self._segments()
        return await self._in_reader(lambda connection: self.readable(cursor.page(segments(connection), count), cursor))

    async def _in_reader(self, job: Callable[[C], T]) -> T:
        if self.closed:
            raise StoreClosedError

        def work() -> T:
            with self._reader() as connection:
                return job(connection)

        return await self._threads.run("reader", work)

    @contextmanager
    def _reader(self) -> Iterator[C]:
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connected()
        try:
            yield connection
        finally:
            if self.closed:
                connection.close()
            else:
                self._readers.append(connection)

    async def _stream_names(self) -> Sequence[str]:
        segments = self._segments()
        return await self._in_reader(lambda connection: segments(connection).streams())

    def _start_of(self, stream: str, version: int) -> int:
        return self.stored_source().start_of(stream, version)

    async def archive(
        self, path: Path, *, before: Position, categories: Sequence[ArchiveCategory] = ("chunks", "effects")
    ) -> Archive:
        return await self._archiving.archive(path, before, categories)

    async def attach(self, path: Path) -> Attached:
        return await self._archiving.attach(path)

    async def destroy_key(self, subject: str) -> None:
        try:
            await self._threads.run("writer", partial(self.vault.destroy, subject))
        except apsw.Error as error:
            raise UnavailableError("the file of keys", str(error)) from error

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _keep_shelf(self, shelf: B) -> int:
        """Keep what is changed on ``shelf`` from now on; where its records stand."""
        self._shelves[shelf.name] = shelf
        if (held := self._upkeep.being_written(shelf.name)) is not None:
            shelf.take_over(held)
        return shelf.position or 0

    def _folded(self, kept: KeptView, position: int) -> None:
        shelf = self._shelves.get(kept.view.name)
        if shelf is not None and shelf.changes >= CHANGES_MAX and not shelf.is_flushing:
            shelf.begin(position)
            self._upkeep.write([shelf])
            shelf.written()

    def view_stands(self, kept: KeptView, position: int) -> None:
        shelf = self._shelves.get(kept.view.name)
        if shelf is None:
            return
        shelf.position = position
        if kept.view.name in self._views.kept:
            self._upkeep.look()
        else:
            self._folded(kept, position)

    def shelves(self) -> Sequence[B]:
        return [self._shelves[name] for name in self._views.kept if name in self._shelves]

    async def views_written(self) -> None:
        await self._views_idle()
        self._upkeep.flush_views()
        await self._threads.run("writer", nothing)
        if self._refused is not None and (self._failed or self.closed):
            raise self._refused

    async def _views_idle(self) -> None:
        """Until no records are being written."""
        while self._upkeep.is_flushing:
            await self._threads.run("writer", nothing)

    @abstractmethod
    def _new_shelf(self, view: View[Any], place_of: Place) -> B:
        """One that shows what the table of ``view`` holds."""

    @abstractmethod
    def _tables(self) -> Sequence[str]:
        """Names of the views that have tables, those on branches among them."""

    @abstractmethod
    def forget_table(self, name: str) -> None:
        """Drop the records of the view ``name``. Raises UnavailableError."""

    def _branch_table(self, view: type[View[Any]], branch: str) -> BranchTable:
        return branch_table(self, self._new_shelf, self._threads, self._upkeep.write, view, branch)

    async def discard(self, branch: str) -> None:
        await super().discard(branch)
        for name in on_branches(self._tables(), branch):
            await self._threads.run("writer", partial(self.forget_table, name))

    async def _put_in_place(self, old: KeptView, new: KeptView) -> None:
        name, shelf = old.view.name, self._shelves[new.view.name]
        await self._views_idle()
        shelf.begin(self.visible_head())
        try:  # on the loop: between its commit and its end no command may ask for a record
            self._exchange(name, shelf)
        except UnavailableError:
            shelf.failed()
            raise
        shelf.written()
        del self._shelves[shelf.name]
        shelf.rename(name)
        self._shelves[name] = shelf


@asynccontextmanager
async def opened(make: Callable[[Threads], D], threads: Threads | None) -> AsyncIterator[D]:
    """The log that ``make`` gives, closed at the end of the block; with threads of its own where it is given none."""
    with ExitStack() as stack:
        if threads is None:
            threads = SystemThreads()
            stack.callback(threads.close)
        store = make(threads)
        try:
            yield store
        finally:
            await store.close()


def nothing() -> None:
    """The jobs of the writer's lane in front of this one have ended, and so have their ends on the loop."""
