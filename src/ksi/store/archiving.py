"""Moving rows of a log into an archive, and back.

In this order, so that a crash between any two steps loses nothing: the file is whole, checked and on the platter; the
log says so in a fact; then the rows are replaced by their stubs, a page a commit. A row is in the log or in the file or
in both. Who asks again with the same file goes on where it was left.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

import apsw
from msgspec.structs import replace

from ksi.core import canonical
from ksi.core.errors import ConflictError, UnavailableError, ValidationError
from ksi.core.events import Appended, Archive, ArchiveCategory, Attached, NewEvent, Position
from ksi.core.ports import Known
from ksi.core.threads import Threads
from ksi.store.archive_file import PAGE, About, Leaving, check_archive, read_page, write_archive
from ksi.store.archives import STREAM, WAS_ARCHIVED, WAS_ATTACHED, Archives, WasArchived, WasAttached
from ksi.store.backup import new_file, sha256_of
from ksi.store.bodies import Bodies
from ksi.store.chain import DIGEST
from ksi.store.cursor import Cursor
from ksi.store.query import StreamRange
from ksi.store.row import Row
from ksi.store.stub import ID, category, is_stub, leaves, read_row, stub_of
from ksi.store.tail import RowSource

T = TypeVar("T")
Readers = Callable[[], AbstractContextManager[Bodies]]
Within = Callable[[Callable[[Bodies], None]], None]
"""Runs a job in a transaction of the writer's. Raises UnavailableError."""


class ArchivedLog(Protocol):
    """The log as this sees it."""

    archives: Archives

    def visible_head(self) -> int: ...
    def stored_source(self) -> RowSource: ...
    def open_requests(self) -> AsyncIterator[Known]: ...
    async def append(self, stream: str, events: Sequence[NewEvent]) -> Appended: ...
    async def keys_written(self) -> None: ...


class Archiving:
    """See the module. One at a time; other requests go on meanwhile."""

    def __init__(self, log: ArchivedLog, threads: Threads, within: Within, readers: Readers) -> None:
        self._log = log
        self._threads = threads
        self._within = within
        self._readers = readers
        self._turn = asyncio.Lock()

    def load(self, *, is_any: bool) -> None:
        """Know which archives there are, if ``is_any``; the log was just opened."""
        archives = Archives()
        archives.is_any = is_any
        cursor = Cursor(StreamRange(STREAM, 1, None), after=0, until=self._log.visible_head())
        while archives.is_any and not cursor.at_end:
            archives.see(cursor.page(self._log.stored_source(), PAGE))
        self._log.archives = archives

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def archive(self, path: Path, before: Position, categories: Sequence[ArchiveCategory]) -> Archive:
        """See :meth:`ksi.core.ports.EventLog.archive`."""
        if not 0 < before <= self._log.visible_head() + 1:
            raise ValidationError(f"@{before} is not in the log, which ends at @{self._log.visible_head()}")
        async with self._turn:
            await self._log.keys_written()  # so that no row that leaves is in memory
            about = await self._prepared(path, before, categories)
            if not about.rows:
                return Archive(str(path), "", before, Position(about.rest), 0, 0, "")
            made = self._log.archives.made(about.id.hex()) or await self._say(path, about)
            await self._each_page(path, _put_stubs)
            place, rest = Position(made.before), Position(made.rest)
            return Archive(made.path, made.id, place, rest, made.rows, made.bytes, made.sha256)

    async def _prepared(self, path: Path, before: Position, categories: Sequence[ArchiveCategory]) -> About:
        """The archive at ``path``, made, or left there by a crash; without rows where nothing can leave."""
        open_runs = frozenset({known.request.correlation_id async for known in self._log.open_requests()})
        start = self._log.archives.rest(categories)
        wanted = About(os.urandom(ID), b"", before, before - 1, tuple(categories), 0, b"")
        return await self._in_reader(lambda log: _prepare(log, path, wanted, open_runs, start), path)

    async def _say(self, path: Path, about: About) -> WasArchived:
        size, sha256 = await self._beside(lambda: (path.stat().st_size, sha256_of(path)), path)
        made = WasArchived(
            path=str(path),
            id=about.id.hex(),
            before=about.before,
            rest=about.rest,
            categories=list(about.categories),
            rows=about.rows,
            bytes=size,
            sha256=sha256,
            stubs=about.stubs.hex(),
        )
        await self._record(WAS_ARCHIVED, made)
        return made

    # ── back ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def attach(self, path: Path) -> Attached:
        """See :meth:`ksi.core.ports.EventLog.attach`."""
        async with self._turn:
            about = await self._in_reader(lambda log: _of(log, path), path)
            await self._log.keys_written()  # so that no stub that gives way is in memory
            rows = await self._each_page(path, _put_back)
            attached = WasAttached(str(path), about.id.hex(), rows)
            await self._record(WAS_ATTACHED, attached)
            return Attached(attached.path, attached.id, rows)

    # ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _record(self, name: str, said: WasArchived | WasAttached) -> None:
        appended = await self._log.append(STREAM, [NewEvent(name=name, data=canonical.encode(said))])
        cursor = Cursor(StreamRange(STREAM, 1, None), after=appended.positions[0] - 1, until=appended.positions[0])
        self._log.archives.see(cursor.page(self._log.stored_source(), 1))

    async def _each_page(self, path: Path, put: Put) -> int:
        """Have ``put`` change the log, a page of the archive in each commit; the sum of what it gives."""
        self._log.archives.is_any = True
        changed, last = 0, 0
        while page := await self._beside(partial(read_page, path, last), path):
            changed += await self._threads.run("writer", partial(self._change, put, page))
            last = page[-1].last
        return changed

    def _change(self, put: Put, page: Sequence[Leaving]) -> int:
        changed = 0

        def work(log: Bodies) -> None:
            nonlocal changed
            changed = put(log, page)

        self._within(work)
        return changed

    async def _in_reader(self, job: Callable[[Bodies], T], path: Path) -> T:
        """Run ``job`` beside the loop. Raises UnavailableError where a file can not be read or written."""

        def work() -> T:
            with self._readers() as log:
                return job(log)

        return await self._beside(work, path)

    async def _beside(self, job: Callable[[], T], path: Path) -> T:
        try:
            return await self._threads.run("reader", job)
        except (apsw.Error, OSError) as error:
            raise UnavailableError(f"the archive {path}", f"{type(error).__name__}: {error}") from error


# ── beside the loop ──────────────────────────────────────────────────────────────────────────────────────────────────
def _prepare(log: Bodies, path: Path, wanted: About, open_runs: frozenset[str], start: int) -> About:
    if path.exists():
        about = _of(log, path)
        if (about.before, about.categories) != (wanted.before, wanted.categories):
            raise ConflictError(f"{path} is there already", path=str(path))
        return about
    rows = _Rows(log, wanted, open_runs, start)
    first = next(leaving := iter(rows), None)
    if first is None:
        return replace(wanted, rest=rows.rest)
    about_it = partial(replace, wanted, log=log.first_hash())
    with new_file(path) as made:
        write_archive(
            made, chain([first], leaving), lambda count, stubs: about_it(rest=rows.rest, rows=count, stubs=stubs)
        )
        return check_archive(made)


class _Rows:
    """The rows of a log that leave for an archive, in order."""

    def __init__(self, log: Bodies, wanted: About, open_runs: frozenset[str], start: int) -> None:
        self._log = log
        self._wanted = wanted
        self._open_runs = open_runs
        self._start = start
        self.rest = wanted.rest

    def __iter__(self) -> Iterator[Leaving]:
        last = self._start
        # Page by page: a statement that stays open would keep the WAL from being copied.
        while page := self._log.page(last, self._wanted.before, PAGE):
            for last, stored in page:
                stub = None if is_stub(stored) else self._stub_of(read_row(stored), stored)
                if stub is not None:
                    yield Leaving(last, stored, stub)

    def _stub_of(self, row: Row, stored: bytes) -> bytes | None:
        if category(row) not in self._wanted.categories:
            return None
        if self._open_runs.isdisjoint(_runs_of(row)):
            return stub_of(row, stored, self._wanted.id)
        self.rest = min(self.rest, row.first - 1)
        return None


def _runs_of(row: Row) -> set[str | None]:
    return {row.origin.correlation_id, *(line.correlation_id for line in row.lines if leaves(line))}


def _of(log: Bodies, path: Path) -> About:
    """What the archive at ``path`` is; it is checked. Raises ConflictError where it is of another log."""
    about = check_archive(path)
    if about.log != log.first_hash():
        raise ConflictError(f"{path} is an archive of another log", path=str(path))
    return about


# ── in the writer's transactions ─────────────────────────────────────────────────────────────────────────────────────
Put = Callable[[Bodies, Sequence[Leaving]], int]


def _put_stubs(log: Bodies, page: Sequence[Leaving]) -> int:
    """Put stubs in the place of the rows that stand there as the archive holds them."""
    log.note_any_away()
    leaving = [(row.stub, row.last) for row in page if log.body_at(row.last) == row.body]
    log.put(leaving)
    return len(leaving)


def _put_back(log: Bodies, page: Sequence[Leaving]) -> int:
    """The other way round. A stub of another archive of the same row gives way too: the digest says that it is that."""
    back = [(row.body, row.last) for row in page if _is_stub_of(log.body_at(row.last), row.body)]
    log.put(back)
    return len(back)


def _is_stub_of(stored: bytes | None, body: bytes) -> bool:
    return stored is not None and is_stub(stored) and stored[-DIGEST:] == body[-DIGEST:]
