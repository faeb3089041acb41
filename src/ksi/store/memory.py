"""The log in memory: the same decisions as on disk, kept in lists. For tests and for what may be forgotten."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from ksi.core.clock import Clock, SystemClock, microseconds
from ksi.core.errors import StoreClosedError
from ksi.core.events import MAIN, Backend, Durable, Position, RecordedEvent
from ksi.core.views import View
from ksi.store.cursor import Cursor
from ksi.store.log import Batch, LoopLog
from ksi.store.memory_shelf import MemoryShelf
from ksi.store.tail import Tail
from ksi.store.vault import MemoryKeys, Vault
from ksi.store.views import KeptView, Place, Shelf


class InMemoryEventStore(LoopLog):
    """A complete log that lives as long as the process. A batch is acknowledged in the loop turn after its own."""

    backend: Backend = "memory"
    durable: Durable = "memory"

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.ids = MemoryIds()
        self._tail = Tail()
        self._commits: list[tuple[int, int]] = []
        super().__init__(clock or SystemClock(), Vault(MemoryKeys()))

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
        return self.readable(cursor.page(self._tail, count), cursor)

    def _shelf(self, view: View[Any], place_of: Place) -> tuple[Shelf, int]:
        return MemoryShelf(place_of), 0

    async def clear_view(self, kept: KeptView) -> None:
        kept.shelf = MemoryShelf(kept.place_of)

    async def _put_in_place(self, old: KeptView, new: KeptView) -> None:
        """Nothing is kept but the shelf itself."""

    async def _stream_names(self) -> Sequence[str]:
        return self._tail.streams()

    def _start_of(self, stream: str, version: int) -> int:
        return self._tail.start_of(stream, version)

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        self.sight(branch)
        place = bisect_right(self._commits, (microseconds(when), self.visible_head()))
        return Position(self._commits[place - 1][1]) if place else None

    async def verify(self) -> Sequence[str]:
        return []

    async def bytes_on_disk(self) -> int:
        return 0

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
