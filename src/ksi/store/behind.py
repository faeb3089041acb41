"""A view that is folded behind the commits: its task, and what it could not take.

Its position is written with its records, in one transaction, so a crash neither loses a fact nor counts it twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from typing import Protocol

from ksi.core.errors import KSIError, StoreClosedError, UnavailableError
from ksi.core.events import Lag, Position, Query, RecordedEvent
from ksi.store.bell import Bell
from ksi.store.parked import ParkedEvents, said
from ksi.store.query import Wanted
from ksi.store.rebuild import Rebuilding
from ksi.store.subscribe import LogSubscription
from ksi.store.views import Change, KeptView

PAGE_MAX = 128
"""Events that are folded in one turn of the loop."""
RESTART_DELAY = 1.0
"""Seconds after which one that failed tries again."""
_log = logging.getLogger("ksi.store")


class Projecting(Rebuilding, Protocol):
    """The log as its projections see it."""

    bell: Bell

    def subscribe(self, query: Query, *, after: Position, buffer: int) -> LogSubscription: ...
    async def lag(self, wanted: Wanted, after: int) -> Lag: ...
    async def views_written(self) -> None:
        """Until all records are on disk that are changed now. Raises UnavailableError where they can not be."""


class Projection:
    """One view, folded behind."""

    def __init__(self, log: Projecting, kept: KeptView, position: int) -> None:
        self._log = log
        self.kept = kept
        self.position = position
        self.failure: str | None = None
        self.turn = asyncio.Lock()
        """Held while it is changed."""
        self.moved = Bell()
        self._again: deque[RecordedEvent] = deque()
        # Whatever request has loaded the plugin: this is none of its work.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def end(self) -> None:
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def cancel(self) -> None:
        self._task.cancel()
        self.moved.ring()

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except StoreClosedError:
                return
            except Exception as error:  # noqa: BLE001  # the door of a supervised task
                self.failure = said(error)
                _log.error("projection %s stands still: %s", self.kept.view.name, self.failure, exc_info=unknown(error))
            await asyncio.sleep(RESTART_DELAY)

    async def _follow(self) -> None:
        parked = await self._log.parked_of(subscriber_of(self.kept.view.name))
        parked.on_retry = self._give_again
        if await parked.retried():
            await self._begin_anew()
        subscription = self._log.subscribe(self.kept.view.query, after=Position(self.position), buffer=PAGE_MAX)
        async with subscription as events:
            async for page, position in events.pages():
                async with self.turn:
                    await self._take(page, parked)
                    self._stand(position)
                while self._again:
                    await self._try_again(self._again.popleft(), parked)
                await asyncio.sleep(0)

    async def _begin_anew(self) -> None:
        """A crash came while a parked event was tried again: nobody knows whether the records have it."""
        await self._log.clear_view(self.kept)
        self._again.clear()
        self._stand(0)

    def _stand(self, position: int) -> None:
        """What is shown holds all up to ``position``. In the turn of the loop in which it is shown."""
        if position != self.position:
            self.position = position
            self._log.view_stands(self.kept, position)
            self.failure = None
            self.moved.ring()

    async def _take(self, page: Sequence[RecordedEvent], parked: ParkedEvents) -> None:
        changes = None if any(event.position in parked for event in page) else self._tried(page)
        if changes is not None:
            self.kept.show_all(changes)
            return
        for event in page:
            await self._take_one(event, parked)
            self._stand(event.position)

    def _tried(self, page: Sequence[RecordedEvent]) -> Sequence[Change] | None:
        """The changes that ``page`` makes; None where an event is in it that can not be taken."""
        try:
            return self.kept.apply(page)
        except Exception:  # noqa: BLE001  # which one it was is found and said one by one
            return None

    async def _take_one(self, event: RecordedEvent, parked: ParkedEvents) -> None:
        try:
            changes = self.kept.apply([event])
        except UnavailableError:  # a record that it reads is damaged: it goes on when the view is built again
            raise
        except Exception as error:  # noqa: BLE001  # a view's code is a plugin's
            await self._park(event, error, parked)
            return
        if event.position in parked:
            await parked.settle(event)
        self.kept.show_all(changes)

    async def _park(self, event: RecordedEvent, error: Exception, parked: ParkedEvents) -> None:
        if parked.may_hold(event):
            await parked.park(event, said(error))
        _log.error("projection %s goes on without @%d", self.kept.view.name, event.position, exc_info=error)

    def _give_again(self, event: RecordedEvent) -> None:
        self._again.append(event)
        self._log.bell.ring()

    async def _try_again(self, event: RecordedEvent, parked: ParkedEvents) -> None:
        """Its place in the order is past; a rebuild would give it that."""
        async with self.turn:
            if event.position not in parked or event.position > self.position:
                return  # it is done by now, or comes in its place
            try:
                changes = self.kept.apply([event])
            except Exception as error:  # noqa: BLE001  # a view's code is a plugin's
                await self._park(event, error, parked)
                return
            self.kept.show_all(changes)
            self._log.view_stands(self.kept, self.position)
            await self._log.views_written()
            await parked.settle(event)


def subscriber_of(name: str) -> str:
    return f"projection/{name}"


def unknown(error: BaseException) -> BaseException | None:
    """Errors of KSI's own say all in one sentence; of others the traceback is wanted."""
    return None if isinstance(error, KSIError) else error
