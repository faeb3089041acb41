"""The log as both backends offer it: writing in batches of a loop turn, requests, views, subscriptions.

A backend says how a batch is kept (:meth:`LoopLog._keep`) and where rows are found; the rest stands here once.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ksi.core import canonical
from ksi.core.clock import Clock, microseconds
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, NotFoundError, StoreClosedError, UnsupportedError, ValidationError
from ksi.core.events import (
    ANY,
    MAIN,
    AppendCondition,
    Appended,
    Backend,
    Backup,
    Durable,
    ExpectedVersion,
    Lag,
    NewEvent,
    ParkedEvent,
    Position,
    Query,
    StreamAppend,
)
from ksi.core.ports import Committed, Done, Entry, Known, Overflow, Start, Unit
from ksi.core.threads import settle
from ksi.core.views import View, ViewReader
from ksi.store.acks import Acks
from ksi.store.bell import Bell
from ksi.store.branching import BranchedLog
from ksi.store.build import NO_CAUSE, NO_RUN
from ksi.store.cursor import Cursor
from ksi.store.decide import Decided, Decider, IdIndex, move
from ksi.store.parked import ParkedEvents
from ksi.store.projections import LogProjections
from ksi.store.query import Compiled, Wanted
from ksi.store.reading import PAGE_MAX
from ksi.store.row import REQUESTS, events_of, outcome_of, requests_of
from ksi.store.sight import marked
from ksi.store.subscribe import LogSubscription
from ksi.store.tail import RowSource
from ksi.store.views import BESIDE, KeptView, KeptViewReader, Place, Shelf, ViewBook

R = TypeVar("R")
FOLD_AT_ONCE = 50_000
"""Positions that a view which is registered may be behind and is still folded in that turn of the loop: 0.3 s."""


GATHERED_MAX = 256
"""Units that are enough for one commit, even while more come."""


class Batch(list[Decided]):
    """What goes to the disk in one commit; recorded at one moment, ``at`` (microseconds since 1970)."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


class LoopLog(BranchedLog):
    """The common part of the backends. All calls from one event loop."""

    backend: Backend
    durable: Durable
    ids: IdIndex

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._views = ViewBook()
        self._decider = Decider(self, self._views)
        self._batch: Batch | None = None
        self._in_flight: Batch | None = None
        self._at = 0
        self._checkpoints: dict[str, Position] = {}
        self._parked: WeakValueDictionary[str, ParkedEvents] = WeakValueDictionary()
        self.projections = LogProjections(self, self._views)
        self.acks = Acks(self.commit_acks)
        self.bell = Bell()
        self.closed = False
        self._refused: KSIError | None = None

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
    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        """Where the records of ``view`` are, and the position that they stand at."""

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

    def _new_batch(self) -> Batch:
        self._at = max(self._clock.time_us(), self._at + 1)
        self._batch = Batch(self._at)
        if self._in_flight is None:
            asyncio.get_running_loop().call_soon(self._send_when_gathered, 0)
        return self._batch

    def _send_when_gathered(self, seen: int) -> None:
        """Send once a turn of the loop brings no more: a sync of the disk costs more than many turns."""
        if self._in_flight is None and self._batch is not None:
            if seen < len(self._batch) < GATHERED_MAX:
                asyncio.get_running_loop().call_soon(self._send_when_gathered, len(self._batch))
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
        self._send_when_gathered(0)
        self.bell.ring()

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
        for row in self._decider.rows_of(event_id):
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
            if known is not None and known.outcome is None:
                yield known

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────
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
            for change in kept.apply(cursor.page(self.stored_source(), PAGE_MAX)):
                kept.show(change)
            self._folded(kept, cursor.position)
        for decided in self._decider.pending:
            if decided.row is not None:
                events = [event for event in events_of(decided.row) if kept.query.matches(event)]
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

    def view(self, view: type[View[R]], *, branch: str = MAIN) -> ViewReader[R]:
        kept = self._views.kept.get(view.name)
        # By name and version: a generation of a plugin that drains asks for the same view with a class of its own.
        if kept is None or kept.view.version != view.version:
            raise NotFoundError("view", view.name)
        return KeptViewReader(kept) if branch == MAIN else self.branch_view(view, branch)

    async def backup(self, path: Path) -> Backup:
        raise UnsupportedError(f"a log in {self.backend} has no backup of its own")

    # ── subscribers ──────────────────────────────────────────────────────────────────────────────────────────────────
    def subscribe(
        self,
        query: Query = (),
        *,
        after: Start = "checkpoint",
        subscriber: str | None = None,
        buffer: int = 256,
        overflow: Overflow = "wait",
        branch: str = MAIN,
    ) -> LogSubscription:
        wanted = Compiled(query, self.sight(branch))
        subscriber = None if subscriber is None else marked(subscriber, branch)
        return LogSubscription(self, wanted, self._place(after, subscriber), subscriber, buffer, overflow)

    def _place(self, after: Start, subscriber: str | None) -> int:
        match after:
            case "start":
                return 0
            case "end":
                return self._decider.visible
            case "checkpoint":
                return self._checkpoints.get(subscriber, 0) if subscriber is not None else 0
        return after

    async def checkpoint(self, subscriber: str, *, branch: str = MAIN) -> Position | None:
        self.sight(branch)
        return self._checkpoints.get(marked(subscriber, branch))

    async def reset_checkpoint(self, subscriber: str, to: Position | None, *, branch: str = MAIN) -> None:
        """Set it, also backwards; None forgets it."""
        self.sight(branch)
        subscriber = marked(subscriber, branch)
        self.acks.forget(subscriber)
        await self._checkpoint_moved(subscriber, to)

    async def _checkpoint_moved(self, subscriber: str, to: Position | None) -> None:
        if self.closed:
            raise StoreClosedError
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        batch = self._batch or self._new_batch()
        batch.append(self._decider.move_checkpoint(subscriber, to, partial(settle, future)))
        await future

    def acknowledged(self, subscriber: str) -> int:
        return self._decider.checkpoints.get(subscriber, 0)

    async def commit_ack(self, subscriber: str, position: Position) -> None:
        if self._checkpoints.get(subscriber, 0) < position:
            self.acks.forget(subscriber)
            await self._checkpoint_moved(subscriber, Position(max(position, self.acknowledged(subscriber))))

    def commit_acks(self) -> None:
        """Begin to store what was acknowledged by now. While the log takes nothing, it waits."""
        if self.acks and self._refused is None:
            self._join_acks(self._batch or self._new_batch())

    def _join_acks(self, batch: Batch) -> None:
        for subscriber, position in self.acks.take().items():
            if position > self.acknowledged(subscriber):
                done = partial(self.acks.ended, subscriber, position)
                batch.append(self._decider.move_checkpoint(subscriber, position, done))

    async def lag(self, wanted: Wanted, after: int) -> Lag:
        """How far behind somebody is who has done all that is ``wanted`` up to ``after``."""
        head = self._decider.visible
        cursor = Cursor(wanted, after=after, until=head)
        while not cursor.at_end:
            for event in await self.page(cursor, 1):
                age_us = self._clock.time_us() - microseconds(event.recorded_at)
                return Lag(head - event.position + 1, max(0.0, age_us / 1e6))
        return Lag(0, 0.0)

    async def parked_of(self, subscriber: str) -> ParkedEvents:
        """Its own, loaded; the same object for all who ask at a time."""
        parked = self._parked.get(subscriber)
        if parked is None:
            parked = self._parked[subscriber] = ParkedEvents(self, subscriber)
        await parked.load()
        return parked

    async def parked(self, subscriber: str) -> Sequence[ParkedEvent]:
        return (await self.parked_of(subscriber)).listed()

    async def retry_parked(self, subscriber: str, position: Position | None = None) -> int:
        return await (await self.parked_of(subscriber)).retry(position)

    async def drop_parked(self, subscriber: str, position: Position | None = None, *, reason: str = "") -> int:
        return await (await self.parked_of(subscriber)).drop(position, reason)

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
    if stream == REQUESTS:
        raise ValidationError(f"{REQUESTS} holds requests and outcomes; facts go elsewhere")
    if isinstance(event.data, bytes):
        canonical.decode(event.data)
        data = event.data
    else:
        data = canonical.encode(event.data)
    return Entry(
        stream=stream,
        name=event.name,
        data=data,
        event_id=None if event.event_id is None else event.event_id.bytes,
        tags=event.tags,
        schema_version=event.schema_version,
        subject=event.subject,
        occurred_us=None if event.occurred_at is None else microseconds(event.occurred_at),
        metadata=event.metadata,
        correlation=event.correlation_id or NO_RUN,
        cause=NO_CAUSE if event.causation_id is None else event.causation_id.bytes,
    )
