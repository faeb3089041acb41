"""Reading a log, page by page, up to what is acknowledged. Both backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ksi.core.clock import utc
from ksi.core.errors import ValidationError
from ksi.core.events import MAIN, Filter, Position, Query, RecordedEvent, StreamInfo
from ksi.core.patterns import matches
from ksi.store.archives import Archives
from ksi.store.cursor import Cursor
from ksi.store.decide import Decider
from ksi.store.query import Compiled, StreamRange, Wanted
from ksi.store.row import REQUESTS, events_of
from ksi.store.sight import Sight
from ksi.store.upcasting import Upcasters
from ksi.store.vault import Vault

PAGE_MIN, PAGE_MAX = 64, 1024
"""Events that are read at once: few at first, for many readers want no more; then more, for each page is a job."""
_REQUESTS = (Filter(streams=(REQUESTS,), kinds=("request", "outcome")),)
_TICK, _EPOCH = timedelta(microseconds=1), utc(0)


class LogReads(ABC):
    """The reading half of a log."""

    _decider: Decider
    archives: Archives
    vault: Vault
    upcasters: Upcasters

    def readable(self, events: list[RecordedEvent], cursor: Cursor | None = None) -> list[RecordedEvent]:
        """``events`` as they are stored, as readers get them. Raises ArchivedError where one is elsewhere."""
        if self.archives.is_any:
            events = self.archives.seen(events, envelopes=cursor is not None and cursor.envelopes)
        return self.upcasters.applied(self.vault.opened(events))

    @abstractmethod
    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]:
        """``cursor.page`` where this log is read."""

    @abstractmethod
    def sight(self, branch: str) -> Sight:
        """What is seen from ``branch``. Raises NotFoundError."""

    @abstractmethod
    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None: ...

    @abstractmethod
    async def _stream_names(self) -> Sequence[str]: ...

    @abstractmethod
    def _start_of(self, stream: str, version: int) -> int: ...

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
        sight = self.sight(branch)
        if stream == REQUESTS:  # versions are positions
            pages = self._pages(Compiled(_REQUESTS, sight), from_version - 1, to_version, backwards, limit)
        else:
            after = self._start_of(stream, from_version) if from_version > 1 and branch == MAIN else 0
            wanted = StreamRange(stream, from_version, to_version, sight)
            pages = self._pages(wanted, after, None, backwards, limit)
        async for page in pages:
            for event in page:
                yield event
                if not backwards and event.version == to_version:
                    return

    async def read_all(
        self,
        query: Query = (),
        *,
        after: Position | None = None,
        until: Position | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
        envelopes: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        wanted = Compiled(query, self.sight(branch))
        low, high = await self._within(query, after or 0, until)
        async for page in self._pages(wanted, low, high, backwards, limit, envelopes=envelopes):
            for event in page:
                yield event

    async def _within(self, query: Query, after: int, until: int | None) -> tuple[int, int | None]:
        """The part of ``after`` to ``until`` that was recorded when the query says; times rise with positions."""
        starts = [one.recorded_from for one in query if one.recorded_from is not None]
        ends = [one.recorded_to for one in query if one.recorded_to is not None]
        if query and len(starts) == len(query):
            after = max(after, await self.position_at(max(min(starts), _EPOCH) - _TICK) or 0)
        if query and len(ends) == len(query):
            last = await self.position_at(max(*ends, _EPOCH) - _TICK) or 0
            until = last if until is None else min(until, last)
        return after, until

    async def _pages(
        self,
        wanted: Wanted,
        after: int,
        until: int | None,
        backwards: bool,
        limit: int | None,
        *,
        envelopes: bool = False,
    ) -> AsyncIterator[list[RecordedEvent]]:
        if limit is not None and limit < 0:
            raise ValidationError(f"limit: {limit} is less than 0")
        head = self._decider.visible
        high = head if until is None else min(until, head)
        cursor = Cursor(wanted, after=after, until=high, backwards=backwards, envelopes=envelopes)
        left, size = limit, PAGE_MIN
        while not cursor.at_end and left != 0:
            page = await self.page(cursor, size if left is None else min(size, left))
            left = None if left is None else left - len(page)
            size = min(2 * size, PAGE_MAX)
            yield page

    async def streams(self, pattern: str = "*", *, branch: str = MAIN) -> AsyncIterator[StreamInfo]:
        names = self.sight(branch).names(await self._stream_names())
        for name in sorted(name for name in names if matches(pattern, name)):
            event = await self.last_envelope(StreamRange(name, 1, None, self.sight(branch)))
            if event is not None:
                yield StreamInfo(name, event.version, event.position)

    async def last_envelope(self, wanted: Wanted, *, until: int | None = None) -> RecordedEvent | None:
        """The last that is wanted; its payload may be elsewhere."""
        async for page in self._pages(wanted, 0, until, True, 1, envelopes=True):
            for event in page:
                return event
        return None

    async def get(self, event_id: UUID, *, branch: str = MAIN) -> RecordedEvent | None:
        event = self._decider.event(event_id.bytes)
        found = [] if event is None or event.position > self._decider.visible else self.sight(branch).chosen([event])
        return next(iter(self.readable(found)), None)

    async def at(self, position: Position, *, branch: str = MAIN) -> RecordedEvent | None:
        row = self._decider.row_at(position) if position <= self._decider.visible else None
        events = [event for event in events_of(row) if event.position == position] if row is not None else []
        return next(iter(self.readable(self.sight(branch).chosen(events))), None)

    def has_nothing(self, wanted: Wanted, after: int) -> bool:
        """Whether it is certain, without a look at the log, that nothing behind ``after`` is wanted."""
        return self._decider.named.has_nothing(wanted, after)

    async def head(self, *, branch: str = MAIN) -> Position | None:
        self.sight(branch)
        return Position(self._decider.visible) if self._decider.visible else None

    async def version(self, stream: str, *, branch: str = MAIN) -> int:
        if not self._decider.pending and stream != REQUESTS:
            self.sight(branch)
            return self._decider.version(stream, branch)
        sight = self.sight(branch)
        wanted = Compiled(_REQUESTS, sight) if stream == REQUESTS else StreamRange(stream, 1, None, sight)
        event = await self.last_envelope(wanted)
        return 0 if event is None else event.version
