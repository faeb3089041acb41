"""Reading page by page: the events that are wanted, out of the rows that may hold them. Nothing stays open between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from ksi.core.events import RecordedEvent
from ksi.store.query import Wanted
from ksi.store.row import Lines, Row, events_of, unpack, unpack_lines
from ksi.store.tail import RowSource

ROWS_MAX = 1024
"""Rows that are looked at for one page, so that a filter that matches nothing does not hold a reader for long."""
ROWS_MIN = 16
BYTES_MAX = 4 * 1024 * 1024
"""Bytes of payloads that the rows of one page should have: where rows are large there are fewer, by those before."""


class Cursor:
    """A place in the log, and what is wanted from there on. ``after < position <= until``."""

    def __init__(
        self, wanted: Wanted, *, after: int, until: int, backwards: bool = False, envelopes: bool = False
    ) -> None:
        self.envelopes = envelopes  #: what is in an archive comes without its payload
        self._wanted = wanted
        self._after = after
        self._until = until
        self._low = after
        self._high: int | None = None
        self._backwards = backwards
        self._left: list[RecordedEvent] = []
        self._keys: list[str] | None = None
        self._started = False
        self._rows_max = ROWS_MAX
        self._exhausted = after >= until

    @property
    def at_end(self) -> bool:
        return self._exhausted and not self._left

    @property
    def low(self) -> int:
        """Forwards: rows up to here have been looked at. Backwards: none up to here will be."""
        return self._low

    @property
    def position(self) -> int:
        """All wanted events up to here have been given (forwards only)."""
        if self._left:
            return self._left[0].position - 1
        return self._until if self._exhausted else self._low

    def page(self, source: RowSource, count: int) -> list[RecordedEvent]:
        """At most ``count`` further events; fewer, or none, says nothing about the end: see :attr:`at_end`."""
        found, self._left = self._left[:count], self._left[count:]
        if len(found) < count and not self._exhausted:
            self._start(source)
            found += self._read(source, count - len(found))
        return found

    def _start(self, source: RowSource) -> None:
        if self._started:
            return
        self._started = True
        self._keys = self._wanted.keys(source.names)
        row = source.row_at(self._until)
        self._high = self._until if row is None else row.last

    def _read(self, source: RowSource, count: int) -> list[RecordedEvent]:
        assert self._high is not None
        asked = min(self._rows_max, max(count, ROWS_MIN))
        rows: Sequence[Row | Lines]
        if self._wanted.lines_only:
            rows = source.rows(self._keys, self._low, self._high, self._backwards, asked, unpack_lines)
            found = self._chosen(list(map(_lines, rows)))
        else:
            rows = source.rows(self._keys, self._low, self._high, self._backwards, asked, unpack)
            found = self._chosen(list(map(events_of, rows)))
        self._advance(rows, asked)
        self._rows_max = _that_fit(found)
        self._left = found[count:]
        return found[:count]

    def _advance(self, rows: Sequence[Row | Lines], asked: int) -> None:
        if len(rows) < asked:
            self._exhausted = True
        elif self._backwards:
            self._high = rows[-1].last - 1
        else:
            self._low = rows[-1].last

    def _chosen(self, rows: Sequence[Sequence[RecordedEvent]]) -> list[RecordedEvent]:
        """The wanted events of ``rows``."""
        found = list(chain.from_iterable(map(reversed, rows) if self._backwards else rows))
        after, until = self._after, self._until
        if found and not all(after < event.position <= until for event in (found[0], found[-1])):
            found = [event for event in found if after < event.position <= until]
        return self._wanted.chosen(found)


_lines = attrgetter("lines")


def _that_fit(found: Sequence[RecordedEvent]) -> int:
    """How many rows to read next, when they are like ``found``."""
    size = sum([len(event.raw) for event in found])
    return max(ROWS_MIN, min(ROWS_MAX, BYTES_MAX * len(found) // size)) if size else ROWS_MAX
