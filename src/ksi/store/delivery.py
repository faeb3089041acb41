"""At least once: what a subscriber with a name was given, has done, wants again, or has put aside."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol, get_args

from ksi.core.errors import ValidationError
from ksi.core.events import Position, RecordedEvent
from ksi.core.ports import Refusal
from ksi.store.acks import Acks, Unacked
from ksi.store.bell import Bell
from ksi.store.parked import ParkedEvents, is_parking

RETRY_DELAY = 1.0
"""Seconds before an event is given again; those behind it are given meanwhile."""
ATTEMPTS_MAX = 5
"""Times that an event is given, in one life of the subscription, before "retry" parks it."""
_log = logging.getLogger("ksi.store")


class Delivering(Protocol):
    """The log as a delivery sees it."""

    bell: Bell
    acks: Acks

    def acknowledged(self, subscriber: str) -> int:
        """Where its checkpoint is, or will be after what is under way; 0 where it has none."""

    async def commit_ack(self, subscriber: str, position: Position) -> None:
        """Until it is on disk that all up to ``position`` is done. Never backwards."""

    async def parked_of(self, subscriber: str) -> ParkedEvents: ...


class Delivery:
    """The side of a subscription that its checkpoint depends on. ``given`` is how far the subscription has come."""

    _parked: ParkedEvents

    def __init__(self, log: Delivering, subscriber: str) -> None:
        self._log = log
        self._subscriber = subscriber
        self._unacked = Unacked()
        self._attempts: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._ahead: set[int] = set()
        """Done before they were read: they had been parked, and were asked for."""
        self.again: deque[RecordedEvent] = deque()
        """To be given before anything new."""

    async def begin(self) -> None:
        self._parked = await self._log.parked_of(self._subscriber)
        self._parked.on_retry = self._give_again
        self.again.extend(await self._parked.retried())

    async def end(self, given: int) -> None:
        """Raises UnavailableError or StoreClosedError where the checkpoint can not be stored."""
        for timer in self._timers.values():
            timer.cancel()
        if self._parked.on_retry == self._give_again:  # not that of a later one with this name
            self._parked.on_retry = None
        await self._log.commit_ack(self._subscriber, self.low_water(given))

    def low_water(self, given: int) -> Position:
        """All up to there is done."""
        done = self._log.acknowledged(self._subscriber)
        self._unacked.forget(done)
        return Position(max(done, self._unacked.low_water(given)))

    def give(self, event: RecordedEvent) -> bool:
        """Whether ``event`` is to be given now. A parked one waits until it is asked for; what tells of it never is."""
        position = event.position
        if position in self._parked or position in self._parked.dropped or event.stream == self._parked.stream:
            return False
        if position in self._ahead:
            self._ahead.remove(position)
            return False
        self._unacked.forget(self._log.acknowledged(self._subscriber))
        self._unacked.give(position)
        return True

    async def ack(self, event: RecordedEvent, given: int) -> None:
        if event.position in self._parked:
            await self._parked.settle(event)
            if event.position > given:
                self._ahead.add(event.position)
        self._done(event, given)

    async def nack(self, event: RecordedEvent, action: Refusal, reason: str, given: int) -> None:
        if action not in get_args(Refusal):
            raise ValidationError(f"what is refused is one of {', '.join(get_args(Refusal))}, not {action!r}")
        attempts = self._attempts.get(event.position, 0) + 1
        if action == "retry" and attempts < ATTEMPTS_MAX:
            self._attempts[event.position] = attempts
            loop = asyncio.get_running_loop()
            self._timers[event.position] = loop.call_later(RETRY_DELAY, self._give_again, event)
        elif action == "skip" or is_parking(event):
            _log.warning("subscriber %s passes over @%d: %s", self._subscriber, event.position, reason)
            await self.ack(event, given)
        else:
            await self._parked.park(event, reason)
            self._done(event, given)

    def _done(self, event: RecordedEvent, given: int) -> None:
        self._attempts.pop(event.position, None)
        self._unacked.ack(event.position)
        done = self.low_water(given)
        if done > self._log.acknowledged(self._subscriber):
            self._log.acks.add(self._subscriber, done)

    def _give_again(self, event: RecordedEvent) -> None:
        self._timers.pop(event.position, None)
        self.again.append(event)
        self._log.bell.ring()
