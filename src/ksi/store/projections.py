"""All views of a log as a whole: how they stand, who waits for one, which are built again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from ksi.core.errors import ConflictError, EventTimeoutError, NotFoundError, StoreClosedError
from ksi.core.events import Lag, Position
from ksi.core.views import ProjectionStatus, Rebuilt
from ksi.store.behind import Projecting, Projection, subscriber_of, unknown
from ksi.store.catchup import CatchUp
from ksi.store.parked import said
from ksi.store.rebuild import Rebuild
from ksi.store.views import KeptView, ViewBook

_log = logging.getLogger("ksi.store")
State = Literal["inline", "live", "catching_up", "rebuilding", "failed"]


class LogProjections:
    """Implements :class:`ksi.core.views.Projections` on a log."""

    def __init__(self, log: Projecting, book: ViewBook) -> None:
        self._log = log
        self._book = book
        self._behind: dict[str, Projection] = {}
        self._rebuilding: set[str] = set()
        self._coming: dict[str, CatchUp] = {}
        self._mending: set[asyncio.Task[None]] = set()

    # ── what the log says ────────────────────────────────────────────────────────────────────────────────────────────
    def begin(self, kept: KeptView, position: int) -> None:
        """Fold it behind, from ``position`` on."""
        self._behind[kept.view.name] = Projection(self._log, kept, position)

    def catch_up(self, kept: KeptView, position: int) -> None:
        """Bring an inline one to the head, from ``position`` on, while others go on."""
        coming = self._coming[kept.view.name] = CatchUp(self._log, self._book, kept, position)
        coming.task.add_done_callback(lambda _: self._arrived(kept.view.name, coming))

    def _arrived(self, name: str, coming: CatchUp) -> None:
        if self._coming.get(name) is coming:
            del self._coming[name]

    def forget(self, name: str) -> None:
        coming = self._coming.pop(name, None)
        if coming is not None:
            coming.cancel(NotFoundError("view", name))
        projection = self._behind.pop(name, None)
        if projection is not None:
            projection.cancel()

    async def stop(self) -> None:
        """End the tasks."""
        for projection in self._behind.values():
            await projection.end()
        tasks = [*self._mending, *(coming.task for coming in self._coming.values())]
        for coming in self._coming.values():
            coming.cancel(StoreClosedError())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def mend(self, name: str) -> None:
        """Build a view whose records are damaged again, in a task of its own."""
        if name in self._book.kept and name not in self._rebuilding:
            self._rebuilding.add(name)
            mending = asyncio.get_running_loop().create_task(self._mend(name))
            self._mending.add(mending)
            mending.add_done_callback(self._mending.discard)

    async def _mend(self, name: str) -> None:
        _log.warning("the view %s is not as it was written: it is built again from the log", name)
        try:
            await self._rebuilt(name, swap=True, is_whole=False)
        except Exception as error:  # noqa: BLE001  # the door of a supervised task
            _log.error("the view %s could not be built again: %s", name, said(error), exc_info=unknown(error))
        else:
            _log.warning("the view %s is built again", name)
        finally:
            self._rebuilding.discard(name)

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────────
    def subscriber(self, name: str) -> str:
        return subscriber_of(name)

    async def status(self, name: str | None = None) -> Sequence[ProjectionStatus]:
        chosen = [self._kept(name)] if name is not None else list(self._book.shown())
        return [await self._status(kept) for kept in chosen]

    async def wait_for(self, name: str, position: Position, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while (kept := self._kept(name)).coming is not None or self._position(name) < position:
                    await self._moved(kept)
        except TimeoutError:
            raise EventTimeoutError(f"projection {name}", seconds=timeout) from None

    async def rebuild(self, name: str, *, swap: bool = True) -> Rebuilt:
        self._kept(name)
        async with self._alone(name):
            return await self._rebuilt(name, swap=swap, is_whole=True)

    async def _rebuilt(self, name: str, *, swap: bool, is_whole: bool) -> Rebuilt:
        rebuild = Rebuild(self._log, self._book, self._kept(name), is_whole=is_whole)
        projection = self._behind.get(name)
        if projection is None:
            return await rebuild.inline(swap=swap)
        return await self._behind_rebuilt(rebuild, projection, swap=swap)

    async def _behind_rebuilt(self, rebuild: Rebuild, projection: Projection, *, swap: bool) -> Rebuilt:
        await rebuild.fold(lambda: projection.position)
        async with projection.turn:
            parked = await self._log.parked_of(subscriber_of(projection.kept.view.name))
            rebuilt = await rebuild.behind(projection.position, parked, swap=swap)
            if swap:
                projection.kept = rebuild.new
            return rebuilt

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        if name in self._rebuilding:
            raise ConflictError(f"projection {name!r} is being rebuilt already", name=name)
        self._rebuilding.add(name)
        try:
            yield
        finally:
            self._rebuilding.discard(name)

    def _kept(self, name: str) -> KeptView:
        kept = self._book.kept.get(name)
        if kept is None:
            raise NotFoundError("projection", name)
        return kept

    async def _moved(self, kept: KeptView) -> None:
        """Until it may be somewhere else: also when it is loaded again, or taken out."""
        projection = self._behind.get(kept.view.name)
        if kept.coming is not None:
            await asyncio.shield(kept.coming)
        elif projection is not None:
            await projection.moved.wait()
        else:
            await self._log.bell.wait()

    def _position(self, name: str) -> int:
        behind = self._behind.get(name) or self._coming.get(name)
        return self._log.visible_head() if behind is None else behind.position

    async def _status(self, kept: KeptView) -> ProjectionStatus:
        name = kept.view.name
        projection = self._behind.get(name)
        lag = Lag(0, 0.0) if kept.is_inline else await self._log.lag(kept.query, self._position(name))
        parked = [] if projection is None else (await self._log.parked_of(subscriber_of(name))).listed()
        newest = max(parked, key=lambda each: each.parked_at, default=None)
        failure = _failure(kept) if projection is None else projection.failure
        return ProjectionStatus(
            name=name,
            version=kept.view.version,
            state="rebuilding" if name in self._rebuilding else _state(kept, failure, lag),
            position=Position(self._position(name)),
            lag=lag.events,
            lag_seconds=lag.seconds,
            problem=failure or (newest.reason if newest is not None else None),
            parked=len(parked),
        )


def _failure(kept: KeptView) -> str | None:
    """Why an inline view can not come to the head."""
    error = kept.coming.exception() if kept.coming is not None and kept.coming.done() else None
    return None if error is None else said(error)


def _state(kept: KeptView, failure: str | None, lag: Lag) -> State:
    if kept.is_inline:
        return "inline"
    if failure is not None:
        return "failed"
    return "catching_up" if lag.events or kept.view.inline else "live"
