"""Ids on disk, with the newest in memory, so that a new request's id costs no question to the disk.

Ids are ordered in time, and nearly so they come. Of the range from ``low`` to ``high`` (a minute ahead) all that exist
are in memory: an id in it that is not there is new. Ids out of that range (retries after months, random UUIDv4) are
asked for on disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

import apsw

from ksi.core.errors import LogDamagedError
from ksi.store.schema import DAMAGE

IDS_MAX = 16_384
"""Ids in memory, and as many more as are under way."""
TRIMMED = 256
"""Ids that leave together, beside those that are too many."""
AHEAD_US = 60_000_000
"""Microseconds that the clock of who makes an id may be ahead."""


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
        self._enter(reversed(newest))
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
        """Keep the newest of what is acknowledged (up to ``visible``), and all that is under way.

        The loop waits for it: called after each commit, it goes over as many as have come, and sorts nothing.
        """
        high = id_floor(now_us + AHEAD_US)
        if high > self._high:
            self._enter(self._stored.between(self._high, high))
            self._high = high
        if len(self._positions) > IDS_MAX:
            self._forget(len(self._positions) - IDS_MAX + TRIMMED, visible, id_floor(now_us))
        if len(self._closings) > 2 * IDS_MAX:  # of requests whose own ids had left before
            known = self._positions
            self._closings = {raw: at for raw, at in self._closings.items() if raw in known or at > visible}

    def _forget(self, count: int, visible: int, now: bytes) -> None:
        """Let go of the ``count`` that were added first, but for those under way and those that are dated ahead."""
        positions, closings, low, high, newest = self._positions, self._closings, self._low, self._high, b""
        for raw, position in list(islice(positions.items(), count)):
            if position > visible or now <= raw < high or (closings and closings.get(raw, 0) > visible):
                continue
            if newest < raw < high and low <= raw:
                newest = raw
            del positions[raw]
            if closings:
                closings.pop(raw, None)
        if newest:
            self._low = newest + b"\0"  # the next id there could be


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
