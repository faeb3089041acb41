"""The log on PostgreSQL: rows, keys and ids are in the database with their commit; the newest are in memory too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw
import psycopg

from ksi.core.clock import Clock, SystemClock, microseconds
from ksi.core.errors import StoreClosedError, UnavailableError, UnsupportedError
from ksi.core.events import MAIN, Archive, ArchiveCategory, Attached, Backend, Backup, Durable, LogSizes, Position
from ksi.core.threads import Threads
from ksi.core.views import View
from ksi.store.adopt import adopt
from ksi.store.archives import STREAM as ARCHIVES
from ksi.store.archiving import Archiving
from ksi.store.bodies import ANY_ARCHIVED, Bodies
from ksi.store.branch_tables import BranchTable
from ksi.store.branches import STREAM as BRANCHES
from ksi.store.disk_log import DiskLog, opened
from ksi.store.idindex import RecentIds
from ksi.store.keyfile import KeyFile
from ksi.store.log import Batch
from ksi.store.memory_shelf import MemoryShelf
from ksi.store.postgres_backup import back_up
from ksi.store.postgres_bodies import PostgresBodies
from ksi.store.postgres_notify import Doorbell
from ksi.store.postgres_reading import News, PostgresIdTable, PostgresTable, Session
from ksi.store.postgres_schema import Access, Connection, connect
from ksi.store.postgres_shared import SharedLog
from ksi.store.postgres_shelf import PostgresShelf, drop, drop_others, put_in_place
from ksi.store.postgres_snapshots import Job, PostgresSnapshots, drop_snapshots
from ksi.store.postgres_verify import verify_database
from ksi.store.postgres_writer import PostgresWriter
from ksi.store.row import Row, events_of
from ksi.store.schema import Durability
from ksi.store.segments import Generations
from ksi.store.sizes import sizes_from
from ksi.store.tail import Tail
from ksi.store.upkeep import ViewUpkeep
from ksi.store.vault import Vault
from ksi.store.views import KeptView, Place, Shelf

T = TypeVar("T")
HEADS_MAX = 65_536
"""Versions of streams in memory."""


class PostgresEventStore(DiskLog[Session, PostgresShelf], SharedLog):
    """A log in the schema ``ksi`` of a database."""

    backend: Backend = "postgresql"
    ids: RecentIds

    def __init__(
        self, url: str, access: Access, clock: Clock, threads: Threads, durability: Durability, keys: Path | None
    ) -> None:
        self._keys = keys if access == "own" else None
        vault = Vault(None if self._keys is None else KeyFile(self._keys))
        super().__init__(PostgresWriter(url, access, durability, clock, vault), access, clock, threads, vault)
        self._url = url
        self._bytes = 0
        self._open: dict[bytes, int] = {}
        self._readers: list[Session] = []
        self._shelves: dict[str, PostgresShelf] = {}
        self._generations = Generations(0, Tail())
        self._doorbell = Doorbell(url, self._rung)
        self._point = Session(url)  # for what is asked on the loop
        self._upkeep = ViewUpkeep(self, threads, self._writer.flush_views)
        self._archiving = Archiving(self, threads, self._with_bodies, self._bodies)
        if access != "read":
            self.snapshots = self._kept_states = self._new_snapshots()
        self.durable: Durable = "disk" if durability == "full" and self._writer.syncs else "process"
        try:
            self._start(self._writer.recent())
            if access != "own":
                self._doorbell.start()
        except BaseException:
            self._point.close()
            self._writer.close()
            raise

    def _start(self, recent: News) -> None:
        """Know what is in the database."""
        self.ids = RecentIds(PostgresIdTable(self._point), self._clock.time_us())
        self._open = dict(self._point.rows("SELECT id, pos FROM ksi.open ORDER BY pos"))
        self._generations.start(recent.start.last, Tail())
        for row, body in recent.rows:
            self._generations.add(row, body)
        self._at = recent.link.at
        self._checkpoints = dict(recent.checkpoints)
        self._decider.start(Position(recent.link.last), recent.checkpoints)
        # Who only reads may meet a stub before the fact that says so has come.
        self._archiving.load(is_any=self._access != "own" or self._any_away())

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        access: Access = "own",
        clock: Clock | None = None,
        threads: Threads | None = None,
        durability: Durability = "full",
        keys: Path | None = None,
    ) -> AsyncIterator[Self]:
        """The log in the database at ``url``, made where there is none; closed at the end of the block.

        Args:
            url: ``postgresql://user@host/database``, or any other conninfo of libpq.
            access: "own": nobody else writes, and what is read is always current. "share": others that share may
                write as well; what they wrote is seen when the doorbell rings, at the latest after ``POLL`` seconds,
                or after :meth:`catch_up`. "read": the same without writing, also beside an owner.
            durability: "full": what is acknowledged survives power loss. "normal": only a crash of the server.
            keys: The file of an owner's keys, made with the first one. What has a subject is sealed with them, and can
                be erased. Without it, or beside others, nothing is sealed, and what is sealed is read like what was
                erased.

        Raises:
            LogLockedError: Somebody owns it, or, where it is to be owned, writes to it.
            LogDamagedError: What is there is not what was written, or of another version.
            UnavailableError: There is no server, or it does not let us in.
        """
        clock = clock or SystemClock()
        async with opened(lambda given: cls(url, access, clock, given, durability, keys), threads) as store:
            yield store

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _kept(self, batch: Batch) -> None:
        for decided in batch:
            if decided.row is not None:
                self._remember(decided.row, decided.body)
            self._open.update(decided.opened)
            if decided.closed is not None:
                self._open.pop(decided.closed, None)
        super()._kept(batch)
        self._upkeep.look()
        self.ids.trim(self.visible_head(), self._clock.time_us())
        if len(self._decider.heads) > HEADS_MAX:
            self._decider.trim()

    def _remember(self, row: Row, body: bytes) -> None:
        self._generations.add(row, body)
        if self._generations.is_full:
            self._generations.begin()
            self._generations.written()  # its keys are in the database with its rows

    def _enter(self, row: Row, body: bytes) -> None:
        self._remember(row, body)
        adopt(row, self.ids, self._open)
        streams = {line.stream for line in row.lines}
        if BRANCHES in streams:
            self._branches = None
        if ARCHIVES in streams:
            self.archives.see(line for line in events_of(row) if line.stream == ARCHIVES)

    # ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────────
    def _connected(self) -> Session:
        return Session(self._url)

    def _table(self, connection: Session, flushed: int) -> PostgresTable:
        return PostgresTable(connection, flushed)

    def stored_open(self) -> dict[bytes, int]:
        return dict(self._open)

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        self.sight(branch)
        last = await self._in_reader(lambda session: session.value(_LAST_AT, (microseconds(when),)))
        return None if last is None else Position(min(last, self.visible_head()))

    async def backup(self, path: Path, *, keys: Path | None = None) -> Backup:
        try:
            return await self._threads.run("reader", partial(back_up, self._url, self._keys, path, keys))
        except (psycopg.Error, apsw.Error, OSError) as error:
            raise UnavailableError("the backup", f"{type(error).__name__}: {error}") from error

    async def archive(
        self, path: Path, *, before: Position, categories: Sequence[ArchiveCategory] = ("chunks", "effects")
    ) -> Archive:
        self._check_owner()
        return await super().archive(path, before=before, categories=categories)

    async def attach(self, path: Path) -> Attached:
        self._check_owner()
        return await super().attach(path)

    def _check_owner(self) -> None:
        if self._access != "own":
            raise UnsupportedError("only who owns a log moves rows out of it and back: others may be reading them")

    async def keys_written(self) -> None:
        """They are in the database with their rows; but what is in memory would be read from there."""
        if len(self._generations.tails()[0]):
            self._generations.begin()
            self._generations.written()

    def _any_away(self) -> bool:
        return self._point.value("SELECT 1 FROM ksi.meta WHERE key = %s", (ANY_ARCHIVED,)) is not None

    @contextmanager
    def _bodies(self) -> Iterator[Bodies]:
        try:
            with closing(connect(self._url)) as connection:
                yield PostgresBodies(connection)
        except psycopg.Error as error:
            raise UnavailableError("the log", f"{type(error).__name__}: {error}") from error

    def _with_bodies(self, job: Callable[[Bodies], None]) -> None:
        self._writer.within(lambda connection: job(PostgresBodies(connection)))

    async def sizes(self) -> LogSizes:
        """The database says nothing of free pages; what was changed or deleted counts until it is used again."""
        head = self.visible_head()

        def work(session: Session) -> LogSizes:
            return sizes_from(head, lambda position: session.value(_BODY_AT, (position,)), session.value(_BYTES), 0)

        return await self._in_reader(work)

    async def bytes_on_disk(self) -> int:
        """As it was when the server last answered."""
        with suppress(UnavailableError):
            if not self._failed:
                self._bytes = await self._in_reader(lambda session: session.value(_BYTES))
        return self._bytes

    async def verify(self) -> Sequence[str]:
        """Digests, links, versions without a gap, ids, open requests, checkpoints."""
        await self._drained()
        verdict = await self._threads.run("reader", partial(verify_database, self._url, self.vault))
        return verdict.problems

    async def overwrite(self) -> None:
        await self._views_idle()
        kept, self._kept_states = self._kept_states, self._new_snapshots()
        kept.close()
        self.snapshots = self._kept_states

        def work(connection: Connection) -> None:
            drop_others(self._views.kept, connection)
            drop_snapshots(connection)

        await self._threads.run("writer", partial(self._writer.within, work))

    def _new_snapshots(self) -> PostgresSnapshots:
        return PostgresSnapshots(self._point, self._write_snapshots)

    def _write_snapshots(self, job: Job) -> None:
        """Nobody waits for them, and none is missed."""
        if not self.closed and self._refused is None:
            self._threads.submit("writer", partial(self._writer.within, job), lambda result, error: None)

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        if self._access != "own":
            return MemoryShelf(place_of), 0  # each process is at a place of its own, and a table at one
        shelf = self._new_shelf(view, place_of)
        shelf.on_damage = self.projections.mend
        return shelf, self._keep_shelf(shelf)

    def _new_shelf(self, view: View[Any], place_of: Place) -> PostgresShelf:
        return PostgresShelf(self._point, view, place_of)

    def _branch_table(self, view: type[View[Any]], branch: str) -> BranchTable:
        if self._access != "own":
            raise UnsupportedError("programs that share a log, or only read it, keep read models in memory")
        return super()._branch_table(view, branch)

    def _tables(self) -> Sequence[str]:
        return [str(name) for (name,) in self._point.rows("SELECT name FROM ksi.views")]

    def forget_table(self, name: str) -> None:
        self._writer.within(partial(drop, name))

    async def clear_view(self, kept: KeptView) -> None:
        await self._views_idle()
        if self._access == "own":
            self._writer.within(partial(drop, kept.view.name))
        kept.shelf, _ = self._shelf(kept.view, kept.place_of)

    async def _put_in_place(self, old: KeptView, new: KeptView) -> None:
        if self._access == "own":
            await super()._put_in_place(old, new)

    def _exchange(self, name: str, shelf: PostgresShelf) -> None:
        self._writer.within(partial(put_in_place, name, shelf))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def close(self) -> None:
        """Write what is in memory, and give the log back. What is under way gets its end first."""
        if self.closed:
            return
        self.commit_acks()
        await self.projections.stop()
        await self._doorbell.stop()
        self.closed = True
        self._refused = StoreClosedError()
        await self._drained()
        self._upkeep.stop()
        if self._failed:
            self._writer.stop_trying()
        else:
            self._upkeep.flush_views()
        await self._threads.run("writer", self._writer.close)
        for session in (*self._readers, self._point):
            session.close()
        self.vault.close()
        self.bell.ring()


_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relnamespace = 'ksi'::regnamespace AND relkind = 'r'
"""
_BODY_AT = "SELECT body FROM ksi.log WHERE last >= %s ORDER BY last LIMIT 1"
_LAST_AT = "SELECT last FROM ksi.commits WHERE at <= %s ORDER BY at DESC LIMIT 1"
