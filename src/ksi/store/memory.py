"""The log in memory: the same decisions as on disk, kept in lists. For tests and for what may be forgotten."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from ksi.core.clock import Clock, SystemClock, microseconds
from ksi.core.errors import StoreClosedError
from ksi.core.events import MAIN, Durable, Position, RecordedEvent
from ksi.core.views import View
from ksi.store.cursor import Cursor
from ksi.store.log import Batch, LoopLog
from ksi.store.reading import only_main
from ksi.store.tail import Tail
from ksi.store.views import KeptView, Key, Place, Shelf, Span


class InMemoryEventStore(LoopLog):
    """A complete log that lives as long as the process. A batch is acknowledged in the loop turn after its own."""

    durable: Durable = "memory"

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.ids = MemoryIds()
        self._tail = Tail()
        self._commits: list[tuple[int, int]] = []
        super().__init__(clock or SystemClock())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _keep(self, batch: Batch) -> None:
        for decided in batch:
            if decided.row is not None:
                self._tail.add(decided.row, decided.body)
                self._commits[-1:] = _joined(self._commits[-1:], batch.at, decided.row.last)
        # Not at once: what the ends of its units write is the next turn's batch, not a deeper call.
        asyncio.get_running_loop().call_soon(self._kept, batch)

    def stored_version(self, stream: str) -> int:
        return 0  # all that is stored is among the heads that the decider knows

    def stored_source(self) -> Tail:
        return self._tail

    def stored_heads(self) -> dict[str, int]:
        return self._decider.heads

    def stored_open(self) -> dict[bytes, int]:
        return self._decider.open

    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]:
        return cursor.page(self._tail, count)

    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        return MemoryShelf(place_of), 0

    async def clear_view(self, kept: KeptView) -> None:
        kept.shelf = MemoryShelf(kept.place_of)

    async def _put_in_place(self, old: KeptView, new: KeptView) -> None:
        """Nothing is kept but the shelf itself."""

    def _stream_names(self) -> Sequence[str]:
        return self._tail.streams()

    def _start_of(self, stream: str, version: int) -> int:
        return self._tail.start_of(stream, version)

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        only_main(branch)
        place = bisect_right(self._commits, (microseconds(when), self.visible_head()))
        return Position(self._commits[place - 1][1]) if place else None

    async def verify(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        await self.projections.stop()
        self.commit_acks()
        self._refused = StoreClosedError()
        await self._drained()
        self.closed = True
        self.bell.ring()


def _joined(newest: list[tuple[int, int]], at: int, last: int) -> list[tuple[int, int]]:
    """One entry for each moment."""
    return [(at, last)] if newest and newest[0][0] == at else [*newest, (at, last)]


class MemoryIds:
    """All ids there are."""

    def __init__(self) -> None:
        self._positions: dict[bytes, int] = {}
        self._closings: dict[bytes, int] = {}

    def find(self, raw: bytes) -> int | None:
        return self._positions.get(raw)

    def is_new(self, raw: bytes) -> bool:
        return raw not in self._positions

    def closing(self, raw: bytes) -> int | None:
        return self._closings.get(raw)

    def add(self, raw: bytes, position: int) -> None:
        self._positions[raw] = position

    def close(self, raw: bytes, position: int) -> None:
        self._closings[raw] = position

    def forget_after(self, position: int) -> None:
        self._positions = {raw: place for raw, place in self._positions.items() if place <= position}
        self._closings = {raw: place for raw, place in self._closings.items() if place <= position}


class MemoryShelf:
    """A view's records in a dict, and their order by each index that was scanned."""

    is_behind = False

    def __init__(self, place_of: Place) -> None:
        self._place_of = place_of
        self._records: dict[Key, Any] = {}
        self._orders: dict[str | None, SortedPlaces] = {}

    def get(self, key: Key) -> Any | None:
        return self._records.get(key)

    def put(self, key: Key, record: Any | None) -> None:
        old = self._records.pop(key, None)
        for index, order in self._orders.items():
            if old is not None:
                order.discard(self._place_of(index, old))
            if record is not None:
                order.add(self._place_of(index, record), record)
        if record is not None:
            self._records[key] = record

    def scan(self, span: Span, limit: int) -> list[tuple[bytes, Any]]:
        order = self._orders.get(span.by)
        if order is None:
            order = SortedPlaces({self._place_of(span.by, record): record for record in self._records.values()})
            self._orders[span.by] = order
        return order.between(span, limit)


class SortedPlaces:
    """Records by their places, in order."""

    def __init__(self, records: dict[bytes, Any]) -> None:
        self._records = records
        self._places = sorted(records)

    def add(self, place: bytes, record: Any) -> None:
        if place not in self._records:
            insort(self._places, place)
        self._records[place] = record

    def discard(self, place: bytes) -> None:
        if self._records.pop(place, None) is not None:
            del self._places[bisect_left(self._places, place)]

    def between(self, span: Span, limit: int) -> list[tuple[bytes, Any]]:
        low, high = bisect_left(self._places, span.low), bisect_left(self._places, span.high)
        chosen = (
            self._places[max(low, high - limit) : high][::-1]
            if span.backwards
            else self._places[low : min(high, low + limit)]
        )
        return [(place, self._records[place]) for place in chosen]
