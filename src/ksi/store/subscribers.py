"""The part of a log that knows its subscribers: where they are, what they have acknowledged, what they have parked."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import get_args
from weakref import WeakValueDictionary

from ksi.core.clock import Clock, microseconds
from ksi.core.errors import KSIError, StoreClosedError, ValidationError
from ksi.core.events import MAIN, Lag, ParkedEvent, Position, Query
from ksi.core.ports import Committed, Overflow, Start
from ksi.core.threads import settle
from ksi.store.acks import Acks
from ksi.store.bell import Bell
from ksi.store.branching import BranchedLog
from ksi.store.cursor import Cursor
from ksi.store.decide import Decided
from ksi.store.parked import ParkedEvents
from ksi.store.query import Compiled, Wanted
from ksi.store.sight import marked
from ksi.store.subscribe import LogSubscription


class SubscribedLog(BranchedLog):
    """Subscriptions, checkpoints, acknowledgements, parked events."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.dropped = 0
        self._checkpoints: dict[str, Position] = {}
        self._parked: WeakValueDictionary[str, ParkedEvents] = WeakValueDictionary()
        self._refused: KSIError | None = None
        self.acks = Acks(self.commit_acks)
        self.bell = Bell()
        self.closed = False

    @abstractmethod
    def _gathering(self) -> list[Decided]:
        """What goes to the disk with the next commit, which is on its way."""

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
        if overflow not in get_args(Overflow):
            raise ValidationError(f"overflow is one of {', '.join(get_args(Overflow))}, not {overflow!r}")
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
        """Set it, also backwards; None forgets it.

        Raises:
            ValidationError: It would be beyond the head, and what comes up to there would be skipped.
        """
        self.sight(branch)
        head = self._decider.visible
        if to is not None and not 0 <= to <= head:
            raise ValidationError(f"a checkpoint at @{to} is not in the log, whose head is @{head}")
        subscriber = marked(subscriber, branch)
        self.acks.forget(subscriber)
        await self._checkpoint_moved(subscriber, to)

    async def _checkpoint_moved(self, subscriber: str, to: Position | None) -> None:
        if self.closed:
            raise StoreClosedError
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        batch = self._gathering()
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
            self._join_acks(self._gathering())

    def _join_acks(self, batch: list[Decided]) -> None:
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
