"""Ids on disk, with the newest in memory, so that a new request's id costs no question to the disk.

Ids are ordered in time. Of the range from ``low`` to ``high`` (a day ahead) all that exist are in memory: an id in it
that is not there is new. Ids out of that range (retries after months, random UUIDv4) are asked for on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import apsw

from ksi.core.errors import LogDamagedError
from ksi.store.schema import DAMAGE

IDS_MAX = 16_384
"""Ids in memory, when the keys of a generation have been written."""
AHEAD_US = 86_400_000_000


def id_floor(time_us: int) -> bytes:
    """The smallest UUIDv7 of that time."""
    return (time_us // 1000).to_bytes(6, "big") + bytes(10)


KnownId = tuple[bytes, int, int | None]
"""An id, the position that it stands for, and the row that closed it, where a later one did."""


class StoredIds(Protocol):
    """Ids on disk."""

    def find(self, raw: bytes) -> tuple[int, int | None] | None: ...
    def newest(self, high: bytes, count: int) -> list[KnownId]:
        """The last ``count`` before ``high``, backwards."""

    def between(self, low: bytes, high: bytes) -> list[KnownId]: ...


class RecentIds:
    """See :class:`ksi.store.decide.IdIndex`."""

    def __init__(self, stored: StoredIds, now_us: int) -> None:
        self._stored = stored
        self._positions: dict[bytes, int] = {}
        self._closings: dict[bytes, int] = {}
        self._high = id_floor(now_us + AHEAD_US)
        newest = stored.newest(self._high, IDS_MAX // 2)
        self._enter(newest)
        self._low = newest[-1][0] if len(newest) == IDS_MAX // 2 else b""

    def _enter(self, known: Iterable[KnownId]) -> None:
        for raw, position, done in known:
            self._positions[raw] = position
            if done is not None:
                self._closings[raw] = done

    def find(self, raw: bytes) -> int | None:
        position = self._positions.get(raw)
        if position is None and not self._low <= raw < self._high:
            stored = self._stored.find(raw)
            position = None if stored is None else stored[0]
        return position

    def is_new(self, raw: bytes) -> bool:
        return self._low <= raw < self._high and raw not in self._positions

    def closing(self, raw: bytes) -> int | None:
        closing = self._closings.get(raw)
        if closing is None and raw not in self._positions:
            stored = self._stored.find(raw)
            closing = None if stored is None else stored[1]
        return closing

    def add(self, raw: bytes, position: int) -> None:
        self._positions[raw] = position

    def close(self, raw: bytes, position: int) -> None:
        self._closings[raw] = position

    def forget_after(self, position: int) -> None:
        self._positions = {raw: place for raw, place in self._positions.items() if place <= position}
        self._closings = {raw: place for raw, place in self._closings.items() if place <= position}

    def trim(self, visible: int, now_us: int) -> None:
        """Keep the newer half of what is acknowledged (up to ``visible``), and all that is under way."""
        high = id_floor(now_us + AHEAD_US)
        if high > self._high:
            self._enter(self._stored.between(self._high, high))
            self._high = high
        if len(self._positions) <= IDS_MAX:
            return
        inside = sorted(raw for raw in self._positions if self._low <= raw < self._high)
        self._low = inside[len(inside) // 2] if inside else self._low
        self._keep(lambda raw, position: position > visible or self._low <= raw < self._high)

    def _keep(self, wanted: Callable[[bytes, int], bool]) -> None:
        self._closings = {
            raw: place
            for raw, place in self._closings.items()
            if wanted(raw, place) or wanted(raw, self._positions.get(raw, 0))
        }
        self._positions = {raw: place for raw, place in self._positions.items() if wanted(raw, place)}


class SqliteIds(RecentIds):
    """Those of a log on SQLite."""

    def __init__(self, connection: apsw.Connection, now_us: int) -> None:
        super().__init__(SqliteIdTable(connection), now_us)


class SqliteIdTable:
    """See :class:`StoredIds`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def find(self, raw: bytes) -> tuple[int, int | None] | None:
        try:
            found: tuple[int, int | None] | None = self._connection.execute(_FIND, (raw,)).fetchone()
        except DAMAGE as error:
            raise LogDamagedError(f"the index of ids can not be read: {error}", position=0) from error
        return found

    def newest(self, high: bytes, count: int) -> list[KnownId]:
        return list(self._connection.execute(_NEWEST, (high, count)))

    def between(self, low: bytes, high: bytes) -> list[KnownId]:
        return list(self._connection.execute(_BETWEEN, (low, high)))


_FIND = "SELECT pos, done FROM ids WHERE id = ?"
_NEWEST = "SELECT id, pos, done FROM ids WHERE id < ? ORDER BY id DESC LIMIT ?"
_BETWEEN = "SELECT id, pos, done FROM ids WHERE id >= ? AND id < ?"
