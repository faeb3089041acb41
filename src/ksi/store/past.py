"""A recorded log as it was: nothing behind a position is seen, and nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar
from uuid import UUID

from ksi.core.errors import NotFoundError, UnsupportedError
from ksi.core.events import MAIN, Durable, Filter, Position, Query, RecordedEvent, StreamInfo
from ksi.core.ports import Known
from ksi.core.views import Page, View, ViewReader
from ksi.store.memory_shelf import MemoryShelf
from ksi.store.snapshots import NoSnapshots
from ksi.store.upcasting import Upcasters
from ksi.store.views import KeptView, KeptViewReader, Place

R = TypeVar("R")
_ALL = (Filter(kinds=("fact", "request", "outcome", "chunk")),)


class RecordedLog(Protocol):
    """The part of a journal that reads, as :class:`~ksi.core.ports.Journal` promises it."""

    def read_stream(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None, backwards: bool = False,
        limit: int | None = None, branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]: ...  # fmt: skip
    def read_all(
        self, query: Query = (), *, after: Position | None = None, until: Position | None = None,
        backwards: bool = False, limit: int | None = None, branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]: ...  # fmt: skip
    def streams(self, pattern: str = "*", *, branch: str = MAIN) -> AsyncIterator[StreamInfo]: ...
    async def get(self, event_id: UUID, *, branch: str = MAIN) -> RecordedEvent | None: ...
    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None: ...
    async def head(self, *, branch: str = MAIN) -> Position | None: ...
    async def find(self, event_id: bytes) -> Known | None: ...


class ReadOnly:
    """Whatever else a log can do is refused."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: _refuse(name)


def _refuse(name: str) -> NoReturn:
    raise UnsupportedError(f"a log as it was is only read: {name}")


class PastLog(ReadOnly):
    """Implements :class:`~ksi.core.ports.Journal` over ``source`` as it stood at :attr:`position`.

    Views are folded when they are first read, and go on from there when it moves. Requests are found whole, whenever
    they ended. All that would write is refused with UnsupportedError.
    """

    durable: Durable = "memory"
    is_read_only = True
    read_only_reason = "a replay writes nothing"
    position = Position(0)

    def __init__(self, source: RecordedLog) -> None:
        self._source = source
        self._views: dict[tuple[str, str], PastView[Any]] = {}
        self.projections = ReadOnly()
        self.snapshots = NoSnapshots()
        self.upcasters = Upcasters()  # what comes from the source was read by its own

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]:
        events = self._source.read_stream(
            stream, from_version=from_version, to_version=to_version, backwards=backwards, branch=branch
        )
        async for event in events:
            if limit == 0 or (event.position > self.position and not backwards):
                return
            if event.position <= self.position:
                limit = None if limit is None else limit - 1
                yield event

    def read_all(
        self,
        query: Query = (),
        *,
        after: Position | None = None,
        until: Position | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]:
        end = self.position if until is None else min(until, self.position)
        return self._source.read_all(query, after=after, until=end, backwards=backwards, limit=limit, branch=branch)

    async def streams(self, pattern: str = "*", *, branch: str = MAIN) -> AsyncIterator[StreamInfo]:
        async for info in self._source.streams(pattern, branch=branch):
            async for event in self.read_stream(info.name, backwards=True, limit=1, branch=branch):
                yield StreamInfo(info.name, event.version, event.position)

    async def get(self, event_id: UUID, *, branch: str = MAIN) -> RecordedEvent | None:
        event = await self._source.get(event_id, branch=branch)
        return event if event is not None and event.position <= self.position else None

    async def at(self, position: Position, *, branch: str = MAIN) -> RecordedEvent | None:
        before = Position(position - 1)
        async for event in self.read_all(_ALL, after=before, until=position, limit=1, branch=branch):
            return event
        return None

    async def head(self, *, branch: str = MAIN) -> Position | None:
        return self.position or None

    async def version(self, stream: str, *, branch: str = MAIN) -> int:
        async for event in self.read_stream(stream, backwards=True, limit=1, branch=branch):
            return event.version
        return 0

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        found = await self._source.position_at(when, branch=branch)
        return None if found is None else min(found, self.position)

    async def find(self, event_id: bytes) -> Known | None:
        return await self._source.find(event_id)

    def is_new(self, event_id: bytes) -> bool:
        return False

    async def open_requests(self) -> AsyncIterator[Known]:
        """None that anybody could go on with."""
        nothing: tuple[Known, ...] = ()
        for known in nothing:
            yield known

    def subscribe(self, *_: Any, **__: Any) -> Silence:
        return Silence()

    async def checkpoint(self, subscriber: str, *, branch: str = MAIN) -> Position | None:
        return None

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def register(self, view: type[View[Any]]) -> None:
        self._views[view.name, MAIN] = PastView(view, self, MAIN)

    def unregister(self, view: type[View[Any]]) -> None:
        self._views = {key: kept for key, kept in self._views.items() if key[0] != view.name}

    def view(self, view: type[View[R]], *, branch: str = MAIN) -> ViewReader[R]:
        found = self._views.get((view.name, MAIN))
        if found is None or found.version != view.version:
            raise NotFoundError("view", view.name)
        return self._views.setdefault((view.name, branch), PastView(view, self, branch))

    async def fold(self, kept: KeptView, after: Position, branch: str) -> None:
        """Bring ``kept`` from ``after`` to :attr:`position`."""
        async for event in self._source.read_all(kept.view.query, after=after, until=self.position, branch=branch):
            for change in kept.apply([event]):
                kept.show(change)


class PastView(Generic[R]):
    """Implements :class:`~ksi.core.views.ViewReader`."""

    def __init__(self, view: type[View[R]], log: PastLog, branch: str) -> None:
        self.version = view.version
        self._branch = branch
        self._view = view
        self._log = log
        self._position = Position(0)
        self._kept = self._fresh()

    async def get(self, *key: Any) -> R | None:
        return await (await self._current()).get(*key)

    async def scan(self, index: str | None = None, *prefix: Any, **how: Any) -> Page[R]:
        return await (await self._current()).scan(index, *prefix, **how)

    async def _current(self) -> KeptViewReader[R]:
        if self._log.position < self._position:
            self._kept, self._position = self._fresh(), Position(0)
        if self._log.position > self._position:
            await self._log.fold(self._kept, self._position, self._branch)
            self._position = self._log.position
        return KeptViewReader(self._kept)

    def _fresh(self) -> KeptView:
        place_of = Place(self._view)
        return KeptView(self._view(), MemoryShelf(place_of), place_of)


class Silence:
    """A subscription to a log in which nothing happens any more."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    async def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        yield await asyncio.get_running_loop().create_future()
