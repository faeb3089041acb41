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

from ksi.core.errors import EventTimeoutError, StoreClosedError, SubscriptionDroppedError
from ksi.core.events import Position, RecordedEvent
from ksi.core.ports import Overflow
from ksi.store.cursor import Cursor
from ksi.store.query import Wanted


class Bell:
    """Wakes all who wait for it, once each."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future.cancelled():
                self._waiting = [other for other in self._waiting if other is not future]


class Subscribed(Protocol):
    """The log as its subscriptions see it."""

    bell: Bell
    closed: bool

    def visible_head(self) -> int: ...
    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]: ...
    async def move_checkpoint(self, subscriber: str, position: Position) -> None: ...


class LogSubscription:
    """See :class:`ksi.core.ports.Subscription`. One consumer."""

    def __init__(
        self, log: Subscribed, wanted: Wanted, after: int, subscriber: str | None, buffer: int, overflow: Overflow
    ) -> None:
        self._log = log
        self._wanted = wanted
        self._read = after
        self._given = after
        self._subscriber = subscriber
        self._checkpoint = 0
        self._buffer = max(1, buffer)
        self._overflow = overflow
        self._moved = Bell()
        self._left = False
        self._reached_end = False
        self.dropped = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        self._moved.ring()

    @property
    def position(self) -> Position:
        return Position(self._given)

    @property
    def is_live(self) -> bool:
        return self._given >= self._log.visible_head()

    async def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        while not self._left:
            for event in await self._next_events():
                self._move(event.position)
                yield event
            self._move(self._read)
            if self._read >= self._log.visible_head():
                self._reached_end = True
                await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        if self._log.closed:
            raise StoreClosedError
        await self._log.bell.wait()

    def _move(self, position: int) -> None:
        self._given = position
        self._moved.ring()

    async def _next_events(self) -> list[RecordedEvent]:
        cursor = Cursor(self._wanted, after=self._read, until=self._log.visible_head())
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
            self.dropped += max(0, len(newest) + len(more) - self._buffer)
            newest.extend(more)
        self._read = cursor.position
        return list(newest)

    async def wait_caught_up(self, timeout: float | None = None) -> Position:
        """Until everything that the log held when this was called has been given, in ``timeout`` seconds."""
        head = self._log.visible_head()
        try:
            async with asyncio.timeout(timeout):
                while self._given < head and not self._left:
                    await self._moved.wait()
        except TimeoutError:
            raise EventTimeoutError("wait_caught_up", seconds=timeout or 0) from None
        return self.position

    async def checkpoint(self, event: RecordedEvent) -> None:
        if self._subscriber is None:
            raise ValueError("only a subscription with a name has a checkpoint: give subscriber=")
        if event.position > self._checkpoint:
            await self._log.move_checkpoint(self._subscriber, event.position)
            self._checkpoint = event.position
