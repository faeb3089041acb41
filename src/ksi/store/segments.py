"""The whole log as readers see it: the table up to ``flushed``, behind it the rows whose keys are in memory only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ksi.store.row import Row
from ksi.store.tail import R, RowSource, Tail


class StoredRows(RowSource, Protocol):
    """Rows on disk."""

    def streams(self) -> Sequence[str]: ...
    def last_version(self, stream: str) -> int: ...
    def start_of(self, stream: str, version: int) -> int: ...


class Segments:
    """One state of the log. What is flushed later does not disturb it: the tails that it holds stay as they are."""

    def __init__(self, table: StoredRows, flushed: int, tails: Sequence[Tail]) -> None:
        self._table = table
        self._flushed = flushed
        self._tails = tails

    def rows(
        self,
        keys: Sequence[str] | None,
        after: int,
        upto: int,
        backwards: bool,
        count: int,
        unpack: Callable[[bytes], R],
    ) -> list[Row | R]:
        found: list[Row | R] = []
        parts: list[RowSource] = [*self._tails] if after >= self._flushed else [self._table, *self._tails]
        for part in reversed(parts) if backwards else parts:
            found += part.rows(keys, after, upto, backwards, count - len(found), unpack)
            if len(found) >= count:
                break
        return found

    def row_at(self, position: int) -> Row | None:
        if position <= self._flushed:
            return self._table.row_at(position)
        return next((row for tail in self._tails if (row := tail.row_at(position)) is not None), None)

    def names(self) -> Sequence[str]:
        return self._united([self._table.names(), *(tail.names() for tail in self._tails)])

    def streams(self) -> Sequence[str]:
        return self._united([self._table.streams(), *(tail.streams() for tail in self._tails)])

    def _united(self, parts: Sequence[Sequence[str]]) -> list[str]:
        return list(dict.fromkeys(name for part in parts for name in part))

    def start_of(self, stream: str, version: int) -> int:
        """A position after which all of the stream's events from ``version`` on follow, and few others."""
        if self._table.last_version(stream) >= version:
            return self._table.start_of(stream, version)
        return max(self._flushed, *(tail.start_of(stream, version) for tail in self._tails))


class Generations:
    """The rows whose keys are in memory: the newest generation grows; an older one is being written, or none is."""

    def __init__(self, flushed: int, newest: Tail) -> None:
        self.start(flushed, newest)

    def start(self, flushed: int, newest: Tail) -> None:
        """Hold what is found on disk: rows up to ``flushed`` have their keys there, ``newest`` the others."""
        self.flushed = flushed
        self._old: Tail | None = None
        self._newest = newest

    def add(self, row: Row, body: bytes) -> None:
        self._newest.add(row, body)

    @property
    def is_full(self) -> bool:
        """The newest generation should be written, and can be."""
        return self._newest.is_full and self._old is None

    def begin(self) -> Tail:
        """The generation to be written; a new one begins."""
        assert self._old is None
        self._old, self._newest = self._newest, self._newest.another()
        return self._old

    def written(self) -> None:
        """What was begun is on disk."""
        assert self._old is not None
        self.flushed = self._old.lasts()[-1]
        self._old = None

    def failed(self) -> None:
        """What was begun is not on disk: it is a part of the newest again."""
        assert self._old is not None
        self._old.extend(self._newest)
        self._newest, self._old = self._old, None

    @property
    def unpacked_from(self) -> int:
        """All rows behind this position are in memory as objects."""
        before = self.flushed if self._old is None else self._old.lasts()[-1]
        return max(before, self._newest.unpacked_from)

    def tails(self) -> tuple[Tail, ...]:
        return (self._newest,) if self._old is None else (self._old, self._newest)

    def heads(self) -> dict[str, int]:
        """Versions of the streams whose keys are in memory."""
        heads: dict[str, int] = {}
        for tail in self.tails():
            heads.update(tail.heads)
        return heads
