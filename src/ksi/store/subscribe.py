"""Subscriptions, pulled: a subscriber reads the log page by page, and at its end waits for the doorbell.

So a slow one costs nobody else anything, and there is no gap and no double between catching up and live: both are the
same reading.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from ksi.core.errors import EventTimeoutError, KSIError, StoreClosedError, SubscriptionDroppedError
from ksi.core.events import Lag, Position, RecordedEvent
from ksi.core.ports import Overflow, Refusal
from ksi.store.bell import Bell, Listener
from ksi.store.cursor import Cursor
from ksi.store.delivery import Delivering, Delivery
from ksi.store.query import Wanted


class Subscribed(Delivering, Protocol):
    """The log as its subscriptions see it."""

    closed: bool
    dropped: int

    def visible_head(self) -> int: ...
    def has_nothing(self, wanted: Wanted, after: int) -> bool: ...
    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]: ...
    async def lag(self, wanted: Wanted, after: int) -> Lag: ...


class LogSubscription:
    """See :class:`ksi.core.ports.Subscription`. One consumer, which may give its events to many workers."""

    def __init__(
        self, log: Subscribed, wanted: Wanted, after: int, subscriber: str | None, buffer: int, overflow: Overflow
    ) -> None:
        self._log = log
        self._wanted = wanted
        self._read = after
        self._given = after
        self._buffer = max(1, buffer)
        self._overflow = overflow
        self._moved = Bell()
        self._listener = Listener(wanted)
        self._waits = False
        """All that was wanted has been given, and it waits for more."""
        self._left = False
        self._reached_end = False
        self._delivery = None if subscriber is None else Delivery(log, subscriber)
        self.dropped = 0

    async def __aenter__(self) -> Self:
        if self._delivery is not None:
            await self._delivery.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        self._log.bell.leave(self._listener)
        self._moved.ring()
        if self._delivery is not None:
            try:
                await self._delivery.end(self._given)
            except KSIError:  # what can not be stored now is given again: that is no reason to hide ``error``
                if error is None:
                    raise

    @property
    def position(self) -> Position:
        self._pass_over()
        return Position(self._given)

    @property
    def acknowledged(self) -> Position:
        return self.position if self._delivery is None else Position(self._delivery.low_water(self.position))

    @property
    def is_live(self) -> bool:
        return self.position >= self._log.visible_head()

    async def lag(self) -> Lag:
        return await self._log.lag(self._wanted, self.acknowledged)

    async def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        async for found, _ in self._pages(self._listener if self._wanted.is_named else None):
            page = deque(found)
            while (event := self._next_of(page)) is not None:
                yield event

    async def pages(self) -> AsyncIterator[tuple[list[RecordedEvent], int]]:
        """Events, and the position up to which there are no others; ``position`` is there when the next are asked for.

        A page may be empty: there is one at least for each commit. Without a name only: nothing is acknowledged, or
        given again.
        """
        async for found in self._pages(None):
            yield found

    async def _pages(self, listener: Listener | None) -> AsyncIterator[tuple[list[RecordedEvent], int]]:
        while not self._left:
            page = await self._next_events()
            yield page, self._read
            self._move(self._read)
            if self._read >= self._log.visible_head():
                self._reached_end = True
                await self._wait_for_more(listener)

    def _next_of(self, page: deque[RecordedEvent]) -> RecordedEvent | None:
        """The next event for the consumer: one that is given again, or the first of ``page`` that is not parked."""
        delivery = self._delivery
        if delivery is not None and delivery.again:
            return delivery.again.popleft()
        while page:
            event = page.popleft()
            self._move(event.position)
            if delivery is None or delivery.give(event):
                return event
        return None

    async def _wait_for_more(self, listener: Listener | None) -> None:
        """Until there may be more; for a ``listener`` until there is something by a name that it waits for."""
        if self._log.closed:
            raise StoreClosedError
        if self._delivery is not None and self._delivery.again:
            return
        if listener is None:
            await self._log.bell.wait()
            return
        self._log.bell.enter(listener)
        self._waits = True
        try:
            await listener.wait()
        finally:
            self._pass_over()
            self._waits = False

    def _pass_over(self) -> None:
        """While it waits, what comes and is not wanted wakes nobody: it is done with that all the same."""
        if self._waits and self._log.has_nothing(self._wanted, self._given):
            self._given = self._read = self._log.visible_head()

    def _move(self, position: int) -> None:
        self._given = position
        self._moved.ring()

    async def _next_events(self) -> list[RecordedEvent]:
        head = self._log.visible_head()
        if self._log.has_nothing(self._wanted, self._read):
            self._read = head
            return []
        cursor = Cursor(self._wanted, after=self._read, until=head)
        page = await self._log.page(cursor, self._buffer)
        if self._reached_end and self._overflow != "wait" and len(page) == self._buffer and not cursor.at_end:
            return await self._overflown(cursor, page)
        self._read = cursor.position
        return page

    async def _overflown(self, cursor: Cursor, page: list[RecordedEvent]) -> list[RecordedEvent]:
        """More than the buffer holds has gathered since this one was last at the end."""
        newest = deque(page, self._buffer)
        while not cursor.at_end:
            more = await self._log.page(cursor, self._buffer)
            if more and self._overflow == "disconnect":
                raise SubscriptionDroppedError(resume_after=self._given)
            dropped = max(0, len(newest) + len(more) - self._buffer)
            self.dropped += dropped
            self._log.dropped += dropped
            newest.extend(more)
        self._read = cursor.position
        return list(newest)

    async def wait_caught_up(self, timeout: float | None = None) -> Position:
        """Until everything that the log held when this was called has been given, in ``timeout`` seconds."""
        head = self._log.visible_head()
        try:
            async with asyncio.timeout(timeout):
                while self.position < head and not self._left:
                    await self._moved.wait()
        except TimeoutError:
            raise EventTimeoutError("wait_caught_up", seconds=timeout or 0) from None
        return self.position

    async def ack(self, event: RecordedEvent) -> None:
        await self._named().ack(event, self.position)

    async def nack(self, event: RecordedEvent, action: Refusal, reason: str) -> None:
        await self._named().nack(event, action, reason, self.position)

    def _named(self) -> Delivery:
        if self._delivery is None:
            raise ValueError("only a subscription with a name acknowledges: give subscriber=")
        return self._delivery
