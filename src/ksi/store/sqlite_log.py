"""The log on SQLite: what is decided on the loop goes to one writing thread, a batch at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw

from ksi.core.clock import Clock, SystemClock, microseconds
from ksi.core.errors import KSIError, LogDamagedError, StoreClosedError, UnavailableError
from ksi.core.events import MAIN, Backend, Backup, Durable, LogSizes, Position
from ksi.core.threads import Threads
from ksi.core.views import View
from ksi.store import aside
from ksi.store.archiving import Archiving
from ksi.store.backup import back_up
from ksi.store.bodies import Bodies, SqliteBodies
from ksi.store.branch_tables import on_branches
from ksi.store.chain import seen_in, witness_of
from ksi.store.disk_log import DiskLog, nothing, opened
from ksi.store.idindex import SqliteIds
from ksi.store.keyfile import KeyFile, keys_of
from ksi.store.keys import Table
from ksi.store.lock import LockFile, lock_of
from ksi.store.log import Batch
from ksi.store.offline import whole_up_to
from ksi.store.opening import Recovered, meta, recover, stored_open
from ksi.store.query import INDEX
from ksi.store.row import unpack
from ksi.store.schema import MISREAD, Durability, connect_reader
from ksi.store.segments import Generations
from ksi.store.shelf import SqliteShelf
from ksi.store.sizes import sizes_of
from ksi.store.snapshots import Job, SqliteSnapshots
from ksi.store.swap import drop_aside, put_in_place, set_aside
from ksi.store.tail import Tail
from ksi.store.upkeep import Upkeep
from ksi.store.vault import Vault
from ksi.store.verify import KEYS_DAMAGED, verify, view_damaged
from ksi.store.views import KeptView, Place, Shelf
from ksi.store.writer import Writer

T = TypeVar("T")
HEADS_MAX = 16_384
"""Versions of streams in memory, when the keys of a generation have been written."""
PROBE_PAUSE = 1.0
"""Seconds between two tries of a disk that did not take a write."""


class SqliteEventStore(DiskLog[apsw.Connection, SqliteShelf]):
    """A log in one file. Beside it lie ``-wal`` and ``-shm`` (SQLite's), ``-head`` (the witness) and ``-lock``."""

    backend: Backend = "sqlite"
    ids: SqliteIds
    _upkeep: Upkeep

    def __init__(self, path: Path, clock: Clock, threads: Threads, durability: Durability, vfs: str | None) -> None:
        super().__init__(clock, Vault(None))
        self.durable: Durable = "disk" if durability == "full" else "process"
        self._path, self._vfs, self._threads = path, vfs, threads
        self._failed = False
        self._probing = False
        self._probed = 0.0
        self._readers: list[apsw.Connection] = []
        self._shelves: dict[str, SqliteShelf] = {}
        self._generations = Generations(0, Tail(self._stored_rows))
        self._lock = LockFile(lock_of(path))
        try:
            self.vault = Vault(KeyFile(keys_of(path)))
            self._writer = Writer(path, durability, vfs, self.vault)
            self._point = connect_reader(path, vfs)  # for what is asked on the loop
            self.snapshots = self._kept_states = self._new_snapshots()
            self._upkeep = Upkeep(self, self._threads, self._writer, self._generations)
            self._archiving = Archiving(self, self._threads, self._with_bodies, self._bodies)
            if meta(self._point, "index") != INDEX:
                self._writer.write_all_keys(meta(self._point, "flushed") or 0)
            self._start(recover(self._point, self._writer.witness, Tail(self._stored_rows)))
        except MISREAD as error:
            self._lock.release()
            raise LogDamagedError(str(error), position=whole_up_to(path)) from error
        except BaseException:
            self._lock.release()
            raise

    def _start(self, found: Recovered) -> None:
        """Know what is on disk, and nothing else."""
        self.ids = SqliteIds(self._point, self._clock.time_us())
        self._generations.start(found.flushed, found.tail)
        self._at = found.head.at
        self._checkpoints = found.checkpoints
        self._decider.start(Position(found.head.last), found.checkpoints)
        self._archiving.load(is_any=SqliteBodies(self._point).are_any_away())

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        threads: Threads | None = None,
        durability: Durability = "full",
        vfs: str | None = None,
    ) -> AsyncIterator[Self]:
        """The log at ``path``, made where there is none; closed at the end of the block.

        Args:
            durability: "full": what is acknowledged survives power loss. "normal": only a crash of the process.
            vfs: Name of the SQLite VFS; None is the system's.

        Raises:
            LogLockedError: Another process has it.
            LogDamagedError: What was acknowledged is not there, or not as it was written.
        """
        async with opened(lambda given: cls(path, clock or SystemClock(), given, durability, vfs), threads) as store:
            yield store

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _keep(self, batch: Batch) -> None:
        self._threads.submit("writer", partial(self._writer.commit, batch.at, batch), partial(self._committed, batch))

    def _committed(self, batch: Batch, _: None, error: BaseException | None) -> None:
        if error is not None:
            self.failed(error)
            return
        for decided in batch:
            if decided.row is not None:
                self._generations.add(decided.row, decided.body)
        self._kept(batch)
        self.ids.trim(self.visible_head(), self._clock.time_us())
        self._upkeep.look()

    def failed(self, error: BaseException) -> None:
        """A write failed: nothing that is under way will be stored, and nothing new until a probe succeeds."""
        reason = error if isinstance(error, UnavailableError) else UnavailableError("the log", repr(error))
        self._probed = self._clock.monotonic()
        self._failed = True
        if not self.closed:
            self._refused = reason
        self._lost(reason)

    def _refusal(self, reason: KSIError) -> KSIError:
        self._probe()
        return reason

    def _probe(self) -> None:
        """See, in the writer's lane, whether the disk takes something again; at most once in :data:`PROBE_PAUSE`."""
        if self._probing or self.closed or self._clock.monotonic() - self._probed < PROBE_PAUSE:
            return
        self._probing = True
        self._threads.submit("writer", self._writer.reopen, self._probe_ended)

    def _probe_ended(self, _: None, error: BaseException | None) -> None:
        self._probing = False
        self._probed = self._clock.monotonic()
        if error is None and not self.closed:
            self._go_on()

    def _go_on(self) -> None:
        """Begin again with what is on disk.

        That may be more than was acknowledged: an error of a COMMIT does not say whether it landed. Who was told
        ``unavailable`` then finds it by a retry under the same id.
        """
        before = self.visible_head()
        found = recover(self._point, self._writer.witness, Tail(self._stored_rows))
        self._start(found)
        for row in found.tail.rows(None, before, self.visible_head(), False, len(found.tail), unpack):
            for change in self._views.apply(self.upcasters.row(self.vault.opened_row(row))):
                change.kept.show(change)
        self._refused, self._failed = None, False
        self.bell.ring()

    async def close(self) -> None:
        """Write what is in memory, and give the log back. What is under way gets its end first."""
        if self.closed:
            return
        self.closed = True
        await self.projections.stop()
        self.commit_acks()
        self._refused = StoreClosedError()
        await self._drained()
        await self._threads.run("writer", nothing)
        self._upkeep.stop()
        if not self._failed:
            await self._settle()
        for connection in (*self._readers, self._point):
            connection.close()
        await self._threads.run("writer", self._writer.close)
        self.vault.close()
        self._lock.release()
        self.bell.ring()

    async def _settle(self) -> None:
        self._upkeep.flush_views()
        if len(self._generations.tails()[0]):
            self._upkeep.flush_keys()
        await self._threads.run("writer", partial(self._writer.checkpoint, apsw.SQLITE_CHECKPOINT_TRUNCATE))

    # ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────────
    def _connected(self) -> apsw.Connection:
        return connect_reader(self._path, self._vfs)

    def _table(self, connection: apsw.Connection, flushed: int) -> Table:
        return Table(connection, flushed)

    def stored_open(self) -> dict[bytes, int]:
        return stored_open(self._point)

    def keys_flushed(self) -> None:
        """Heads of streams that can be asked for on disk now need not stay in memory."""
        if len(self._decider.heads) > HEADS_MAX:
            self._decider.trim()

    @contextmanager
    def _stored_rows(self) -> Any:
        """The rows of a tail, for who asks in any thread."""
        with self._reader() as connection:
            yield Table(connection, 0)

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        self.sight(branch)
        last = self._point.execute(_LAST_AT, (microseconds(when),)).get
        return None if last is None else Position(min(last, self.visible_head()))

    async def bytes_on_disk(self) -> int:
        return sum(file.stat().st_size for file in self._path.parent.glob(f"{self._path.name}*") if file.is_file())

    async def verify(self) -> Sequence[str]:
        """Digests, links, versions without a gap, ids, open requests, keys, views, checkpoints and the witness."""

        def work() -> Sequence[str]:
            seen = seen_in(witness_of(self._path))  # before the state that is looked at: it may go on meanwhile
            with self._reader() as connection:
                return verify(connection, seen, self.vault)

        problems = await self._threads.run("reader", work)
        if KEYS_DAMAGED in problems:
            await self._threads.run("writer", partial(self._writer.set_meta, "index", None))
        for name in self._views.kept:
            if view_damaged(name) in problems:
                self.projections.mend(name)
        with suppress(*MISREAD):  # where the list of tables is damaged, that is said already
            self._mend_on_branches([name for name in on_branches(self._tables()) if view_damaged(name) in problems])
        return problems

    def _mend_on_branches(self, names: Sequence[str]) -> None:
        """Have these views of branches be folded again by whoever reads them next."""
        for name in names:
            self.forget_table(name)
            self._branch_views.clear()

    async def backup(self, path: Path, *, keys: Path | None = None) -> Backup:
        try:
            return await self._threads.run("reader", partial(back_up, self._path, self._vfs, path, keys))
        except (apsw.Error, OSError) as error:
            raise UnavailableError("the backup", f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _bodies(self) -> Iterator[Bodies]:
        with self._reader() as connection:
            yield SqliteBodies(connection)

    def _with_bodies(self, job: Callable[[Bodies], None]) -> None:
        self._writer.within(lambda connection: job(SqliteBodies(connection)))

    async def sizes(self) -> LogSizes:
        return await self._in_reader(sizes_of)

    async def keys_written(self) -> None:
        """Until the keys of all that is acknowledged by now are on disk."""
        head = self.visible_head()
        while self._generations.flushed < head and self._refused is None:
            if len(self._generations.tails()) == 1:
                self._upkeep.flush_keys()
            await self._threads.run("writer", nothing)
        if self._refused is not None:
            raise self._refused

    def _new_snapshots(self) -> SqliteSnapshots:
        return SqliteSnapshots(self._point, self._write_snapshots)

    def _write_snapshots(self, job: Job) -> None:
        """Nobody waits for them, and none is missed."""
        if not self.closed and self._refused is None:
            self._threads.submit("writer", partial(self._writer.within, job), lambda result, error: None)

    async def overwrite(self) -> None:
        await self._views_idle()
        kept, self._kept_states = self._kept_states, self._new_snapshots()
        kept.close()
        self.snapshots = self._kept_states
        await self._threads.run("writer", partial(self._writer.overwrite, frozenset(self._views.kept)))

    async def damaged(self, *, remove: bool) -> Sequence[str]:
        try:
            return await self._threads.run("reader", partial(aside.left, self._path, remove=remove))
        except OSError as error:
            raise UnavailableError("a damaged log that was put aside", str(error)) from error

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        shelf = self._new_shelf(view, place_of)
        shelf.on_damage = self.projections.mend
        return shelf, self._keep_shelf(shelf)

    def _new_shelf(self, view: View[Any], place_of: Place) -> SqliteShelf:
        return SqliteShelf(self._point, view, place_of)

    def _tables(self) -> Sequence[str]:
        return [str(name) for (name,) in self._point.execute("SELECT name FROM views")]

    def forget_table(self, name: str) -> None:
        self._writer.within(partial(set_aside, name))
        self._writer.within(partial(drop_aside, name))

    async def clear_view(self, kept: KeptView) -> None:
        await self._views_idle()
        self._writer.within(partial(set_aside, kept.view.name))
        kept.shelf, _ = self._shelf(kept.view, kept.place_of)
        self._drop_aside(kept.view.name)

    def _exchange(self, name: str, shelf: SqliteShelf) -> None:
        self._writer.within(partial(put_in_place, name, shelf))
        self._drop_aside(name)

    def _drop_aside(self, name: str) -> None:
        """Slow where there are many records, so not on the loop. What fails here is dropped the next time."""
        job = partial(self._writer.within, partial(drop_aside, name))
        self._threads.submit("writer", job, lambda result, error: None)


_LAST_AT = "SELECT last FROM commits WHERE at <= ? ORDER BY at DESC LIMIT 1"
