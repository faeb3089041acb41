"""A log read through a pipe: one process asks, the one that owns the log answers. A line of JSON each, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ksi.core.events import MAIN, Filter, Position, Query, RecordedEvent, StreamInfo
from ksi.core.ports import Known
from ksi.store.past import RecordedLog

PAGE_EVENTS, PAGE_BYTES = 512, 1 << 20
"""A page ends with the event that reaches one of the two."""


class Question(msgspec.Struct, frozen=True, tag_field="ask"):
    """Base of what is asked."""


class ReadStream(Question, frozen=True, tag="read_stream"):
    stream: str
    from_version: int
    to_version: int | None
    backwards: bool
    limit: int | None
    branch: str


class ReadAll(Question, frozen=True, tag="read_all"):
    query: tuple[Filter, ...]
    after: int | None
    until: int | None
    backwards: bool
    limit: int | None
    branch: str


class Streams(Question, frozen=True, tag="streams"):
    pattern: str
    branch: str


class Get(Question, frozen=True, tag="get"):
    event_id: UUID
    branch: str


class Find(Question, frozen=True, tag="find"):
    event_id: bytes


class PositionAt(Question, frozen=True, tag="position_at"):
    when: datetime
    branch: str


class Head(Question, frozen=True, tag="head"):
    branch: str


AnyQuestion = ReadStream | ReadAll | Streams | Get | Find | PositionAt | Head


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for; ``is_last`` is False where a page follows."""

    events: tuple[RecordedEvent, ...] = ()
    is_last: bool = True
    streams: tuple[StreamInfo, ...] = ()
    known: Known | None = None
    position: Position | None = None


class LogServer:
    """The side that owns the log. It answers questions, and that is all: nothing can be written through it."""

    def __init__(self, log: RecordedLog) -> None:
        self._log = log

    async def answer(self, question: AnyQuestion) -> Answer:
        log = self._log
        match question:
            case ReadStream():
                return await self._read_stream(question)
            case ReadAll():
                return await self._read_all(question)
            case Streams(pattern, branch):
                return Answer(streams=tuple([info async for info in log.streams(pattern, branch=branch)]))
            case Get(event_id, branch):
                event = await log.get(event_id, branch=branch)
                return Answer(events=() if event is None else (_plain(event),))
            case Find(event_id):
                return Answer(known=await log.find(event_id))
            case PositionAt(when, branch):
                return Answer(position=await log.position_at(when, branch=branch))
            case Head(branch):
                return Answer(position=await log.head(branch=branch))

    async def _read_stream(self, wanted: ReadStream) -> Answer:
        return await _page(
            self._log.read_stream(
                wanted.stream,
                from_version=wanted.from_version,
                to_version=wanted.to_version,
                backwards=wanted.backwards,
                limit=wanted.limit,
                branch=wanted.branch,
            )
        )

    async def _read_all(self, wanted: ReadAll) -> Answer:
        return await _page(
            self._log.read_all(
                wanted.query,
                after=None if wanted.after is None else Position(wanted.after),
                until=None if wanted.until is None else Position(wanted.until),
                backwards=wanted.backwards,
                limit=wanted.limit,
                branch=wanted.branch,
            )
        )


async def _page(events: AsyncIterator[RecordedEvent]) -> Answer:
    found: list[RecordedEvent] = []
    size = 0
    async for event in events:
        found.append(_plain(event))
        size += len(event.raw)
        if len(found) == PAGE_EVENTS or size >= PAGE_BYTES:
            return Answer(events=tuple(found), is_last=False)
    return Answer(events=tuple(found))


def _plain(event: RecordedEvent) -> RecordedEvent:
    """Without the form in which a backend stores it."""
    return RecordedEvent(**{name: getattr(event, name) for name in RecordedEvent.__struct_fields__})


class PipedLog:
    """Implements :class:`~ksi.store.past.RecordedLog`.

    Args:
        ask: Sends a question and waits, without the loop, for its answer.
    """

    def __init__(self, ask: Callable[[AnyQuestion], Answer]) -> None:
        self._ask = ask

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
        while True:
            page = self._ask(ReadStream(stream, from_version, to_version, backwards, limit, branch))
            for event in page.events:
                yield event
            if page.is_last:
                return
            last = page.events[-1].version
            from_version, to_version = (from_version, last - 1) if backwards else (last + 1, to_version)
            limit = None if limit is None else limit - len(page.events)

    async def read_all(
        self,
        query: Query = (),
        *,
        after: Position | None = None,
        until: Position | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]:
        while True:
            page = self._ask(ReadAll(tuple(query), after, until, backwards, limit, branch))
            for event in page.events:
                yield event
            if page.is_last:
                return
            last = page.events[-1].position
            after, until = (after, Position(last - 1)) if backwards else (last, until)
            limit = None if limit is None else limit - len(page.events)

    async def streams(self, pattern: str = "*", *, branch: str = MAIN) -> AsyncIterator[StreamInfo]:
        for info in self._ask(Streams(pattern, branch)).streams:
            yield info

    async def get(self, event_id: UUID, *, branch: str = MAIN) -> RecordedEvent | None:
        return next(iter(self._ask(Get(event_id, branch)).events), None)

    async def find(self, event_id: bytes) -> Known | None:
        return self._ask(Find(event_id)).known

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        return self._ask(PositionAt(when, branch)).position

    async def head(self, *, branch: str = MAIN) -> Position | None:
        return self._ask(Head(branch)).position


encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_answer = msgspec.json.Decoder(Answer).decode
