"""The log as the backends offer it: batches of a loop turn, and requests. Views and subscribers are in its bases.

A backend says how a batch is kept (:meth:`LoopLog._keep`) and where rows are found; the rest stands here once.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from pathlib import Path

from ksi.core.clock import Clock
from ksi.core.entries import entry_from
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, UnsupportedError, ValidationError
from ksi.core.events import (
    ANY,
    MAIN,
    AppendCondition,
    Appended,
    Archive,
    ArchiveCategory,
    Attached,
    Backend,
    Backup,
    Durable,
    Erased,
    ExpectedVersion,
    LogSizes,
    NewEvent,
    Position,
    StreamAppend,
)
from ksi.core.ports import Committed, Done, Entry, Known, Unit
from ksi.core.threads import settle
from ksi.core.views import Snapshots, UpcastersChecked
from ksi.store.build import NO_CAUSE, NO_RUN
from ksi.store.decide import Decided, Decider, IdIndex, move
from ksi.store.erasing import erase
from ksi.store.row import REQUESTS, outcome_of, requests_of
from ksi.store.sight import marked
from ksi.store.snapshots import NoSnapshots
from ksi.store.tail import RowSource
from ksi.store.upcasting import Upcasters
from ksi.store.upcasts import check
from ksi.store.vault import Vault
from ksi.store.viewed import ViewedLog

GATHERED_MAX = 256
"""Units that are enough for one commit, even while more come."""
GATHERED_US = 2_000
"""Microseconds after which it is begun, even while more come."""


class Batch(list[Decided]):
    """What goes to the disk in one commit; recorded at one moment, ``at`` (microseconds since 1970)."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


class LoopLog(ViewedLog):
    """The common part of the backends. All calls from one event loop."""

    backend: Backend
    durable: Durable
    ids: IdIndex

    def __init__(self, clock: Clock, vault: Vault | None = None) -> None:
        super().__init__(clock)
        self.vault = vault or Vault(None)
        self.upcasters = Upcasters()
        self.snapshots: Snapshots = NoSnapshots()
        self._decider = Decider(self, self._views)
        self._batch: Batch | None = None
        self._in_flight: Batch | None = None
        self._at = 0
        self.commits = 0

    # ── what a backend says ──────────────────────────────────────────────────────────────────────────────────────────
    @abstractmethod
    def stored_version(self, stream: str) -> int: ...

    @abstractmethod
    def stored_source(self) -> RowSource: ...

    @abstractmethod
    def stored_heads(self) -> dict[str, int]: ...

    @abstractmethod
    def stored_open(self) -> dict[bytes, int]: ...

    @abstractmethod
    def _keep(self, batch: Batch) -> None:
        """Begin to store ``batch``; :meth:`_kept` follows on the loop."""

    @abstractmethod
    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None: ...

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def write(self, unit: Unit, done: Done) -> None:
        if self._refused is not None:
            done(None, self._refusal(self._refused))
            return
        batch = self._batch or self._new_batch()
        try:
            decided = self._decider.decide(unit, batch.at, done)
        except KSIError as error:
            done(None, error)
        else:
            batch.append(decided)

    @property
    def is_read_only(self) -> bool:
        return self.read_only_reason is not None

    @property
    def read_only_reason(self) -> str | None:
        return None if self._refused is None else self._refusal(self._refused).message

    def _refusal(self, reason: KSIError) -> KSIError:
        """Something is refused for this reason; a backend may look whether it still holds."""
        return reason

    def _gathering(self) -> Batch:
        return self._batch or self._new_batch()

    def _new_batch(self) -> Batch:
        self._at = max(self._clock.time_us(), self._at + 1)
        self._batch = Batch(self._at)
        if self._in_flight is None:
            asyncio.get_running_loop().call_soon(self._send_when_gathered)
        return self._batch

    def _send_when_gathered(self, seen: int = 0, since: int = 0) -> None:
        """Send once a turn of the loop brings no more: a sync of the disk costs more than many turns."""
        if self._in_flight is not None or self._batch is None:
            return
        now = self._clock.time_us()
        since = since or now
        if seen < len(self._batch) < GATHERED_MAX and now - since < GATHERED_US:
            asyncio.get_running_loop().call_soon(self._send_when_gathered, len(self._batch), since)
        else:
            self._send()

    def _send(self) -> None:
        if self._in_flight is None and self._batch is not None:
            if self.acks:
                self._join_acks(self._batch)
            self._in_flight, self._batch = self._batch, None
            self._keep(self._in_flight)

    def _kept(self, batch: Batch) -> None:
        """``batch`` is on disk: show it, say so, and send what has gathered meanwhile."""
        for decided in batch:
            self._decider.acknowledged(decided)
            if decided.checkpoint is not None:
                move(self._checkpoints, decided.checkpoint)
            _finish(decided, decided.committed, None)
        self._in_flight = None
        self.commits += 1
        self._send_when_gathered()
        self.bell.ring_for(self._decider.named.take_came())

    def _lost(self, error: KSIError) -> None:
        """Nothing that is under way is on disk, nor will be. Said first: what is on disk may be unreadable too."""
        self._batch = self._in_flight = None
        failed = self._decider.take_pending()
        try:
            self._decider.reset(self._checkpoints)
        finally:
            for decided in failed:
                _finish(decided, None, error)
            self.bell.ring()

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected_version: ExpectedVersion = ANY,
        condition: AppendCondition | None = None,
        branch: str = MAIN,
    ) -> Appended:
        appends = [StreamAppend(stream, events, expected_version)]
        return await self.append_all(appends, condition=condition, branch=branch)

    async def append_all(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        checkpoint: tuple[str, Position] | None = None,
        branch: str = MAIN,
    ) -> Appended:
        self.sight(branch)
        entries = [_entry(append.stream, event) for append in appends for event in append.events]
        if not entries and checkpoint is None:
            return Appended((), (), deduplicated=False, durable=self.durable)
        committed = await self._written(
            Unit(
                origin=EventEnvelope(name="", principal="", source="", branch=branch),
                entries=entries,
                expected={append.stream: append.expected_version for append in appends if append.events},
                condition=condition,
                checkpoint=None if checkpoint is None else (marked(checkpoint[0], branch), checkpoint[1]),
            )
        )
        return _appended(committed, self.durable)

    async def _written(self, unit: Unit) -> Committed:
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.write(unit, partial(settle, future))
        return await future

    async def _drained(self) -> None:
        """Until nothing is under way."""
        while self._decider.pending:
            await self.bell.wait()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def find(self, event_id: bytes) -> Known | None:
        return self._known(event_id)

    def _known(self, event_id: bytes) -> Known | None:
        found: Known | None = None
        for row in map(self.vault.opened_row, self._decider.rows_of(event_id)):
            for position, request in requests_of(row):
                if request.event_id == event_id:
                    found = Known(copy(request), position, None)
            if found is not None and row.origin.event_id == event_id:
                found = Known(found.request, found.position, outcome_of(row))
        return found

    def is_new(self, event_id: bytes) -> bool:
        return self.ids.is_new(event_id)

    async def open_requests(self) -> AsyncIterator[Known]:
        for raw, position in sorted(self._decider.open.items(), key=lambda item: item[1]):
            known = self._known(raw) if position <= self._decider.visible else None
            if known is not None and known.outcome is None and self._known_branches().stands(known.request.branch):
                yield known

    async def backup(self, path: Path, *, keys: Path | None = None) -> Backup:
        raise UnsupportedError(f"a log in {self.backend} has no backup of its own")

    async def archive(
        self, path: Path, *, before: Position, categories: Sequence[ArchiveCategory] = ("chunks", "effects")
    ) -> Archive:
        raise UnsupportedError(f"a log in {self.backend} has no archives")

    async def attach(self, path: Path) -> Attached:
        raise UnsupportedError(f"a log in {self.backend} has no archives")

    async def sizes(self) -> LogSizes:
        raise UnsupportedError(f"a log in {self.backend} has no file of its own")

    async def erase_subject(self, subject: str, *, with_damaged: bool = False) -> Erased:
        erased = await erase(self, self._views, subject, with_damaged=with_damaged)
        self._branch_views.clear()
        return erased

    async def damaged(self, *, remove: bool) -> Sequence[str]:
        return ()

    async def check_upcasters(self, newest: Mapping[str, tuple[int, type]]) -> UpcastersChecked:
        branches = [MAIN, *[fork.branch for fork in self._known_branches().forks()]]
        return await check(self, branches, self.upcasters, newest)

    @property
    def seals(self) -> bool:
        return self.vault.can_erase

    @property
    def has_subjects(self) -> bool:
        return self.vault.has_subjects

    async def destroy_key(self, subject: str) -> None:
        self.vault.destroy(subject)

    async def overwrite(self) -> None:  # not every backend has a disk
        """Leave nothing on disk of what views held before."""

    def visible_head(self) -> int:
        """Position of the last acknowledged event; 0 where there is none."""
        return self._decider.visible


def _appended(committed: Committed, durable: Durable) -> Appended:
    positions = tuple([Position(position) for position in committed.positions])
    return Appended(positions, committed.versions, committed.deduplicated, durable)


def _finish(decided: Decided, committed: Committed | None, error: KSIError | None) -> None:
    try:
        decided.done(committed, error)
    except Exception as raised:  # noqa: BLE001  # the caller's code must not keep the units behind it from their end
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "done() of a commit failed", "exception": raised})


def _entry(stream: str, event: NewEvent) -> Entry:
    """One that belongs to no run, and has no cause, where it names none."""
    if stream == REQUESTS:
        raise ValidationError(f"{REQUESTS} holds requests and outcomes; facts go elsewhere")
    entry = entry_from(stream, event)
    entry.correlation = entry.correlation or NO_RUN
    entry.cause = entry.cause or NO_CAUSE
    return entry
