"""The log, read: events by pattern, time, run or stream; single events; the names of streams; is it whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.clock import utc
from ksi.core.errors import ValidationError
from ksi.core.events import Filter, Kind, Position
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.references import EventReference, find_event, find_run
from ksi.plugins.shapes import Limit, Place, ShownEvent, optional_position, page_of, shown


class ReadLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events. All that is said must hold; nothing said means all facts."""

    pattern: Annotated[str, Meta(description="names of events, as in agent:* or agent:")] = "*"
    kinds: Annotated[tuple[Kind, ...], Meta(description="facts explain state; requests and outcomes explain facts")] = (
        "fact",
    )
    stream: Annotated[str | None, Meta(description="streams, as in conversation/c1 or conversation/*")] = None
    correlation_id: Annotated[str | None, Meta(description="a run: id, unique beginning of one, last")] = None
    since_us: Annotated[int | None, Meta(description="recorded at this time or later, microseconds since 1970")] = None
    after: Place | None = None
    until: Place | None = None
    backwards: Annotated[bool, Meta(description="the newest first")] = False
    limit: Limit = 100


class LogPage(msgspec.Struct, frozen=True):
    """``next`` goes into ``after``, or into ``until`` where it is read backwards; null at the end.

    A page has fewer than ``limit`` where its events are large.
    """

    events: list[ShownEvent]
    next: int | None


class OneEvent(msgspec.Struct, frozen=True):
    """One event of the log."""

    event: ShownEvent


class Verified(msgspec.Struct, frozen=True):
    """``problems`` says what is wrong, a sentence each; empty when all is whole up to ``head``."""

    problems: list[str]
    head: int


class ShownStream(msgspec.Struct, frozen=True):
    """A stream with its last version and the position of its last event."""

    name: str
    version: int
    position: int


class Streams(msgspec.Struct, frozen=True):
    """Streams by name."""

    streams: list[ShownStream]


class Log(AsyncPlugin):
    """Reads the log."""

    name = "log"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @query(
        "log:read",
        errors=["ambiguous", "not_found"],
        examples=[{"limit": 20, "backwards": True}, {"pattern": "agent:", "kinds": ["fact", "request", "outcome"]}],
    )
    async def read(self, request: ReadLog, context: EventContext) -> LogPage:
        """Read events of the log, a page at a time."""
        run = request.correlation_id
        wanted = Filter(
            names=() if request.pattern == "*" else (request.pattern,),
            kinds=request.kinds,
            streams=() if request.stream is None else (request.stream,),
            correlation_id=None if run is None else await find_run(self._log, run, branch=context.branch),
            recorded_from=None if request.since_us is None else _moment(request.since_us),
        )
        page = self._log.read_all(
            (wanted,),
            after=optional_position(request.after),
            until=optional_position(request.until),
            backwards=request.backwards,
            branch=context.branch,
            envelopes=True,
        )
        events, is_full = await page_of(page, request.limit)
        return LogPage(events, _next(events[-1].position, request) if is_full else None)

    @query(
        "log:get",
        errors=["ambiguous", "not_found"],
        examples=[{"id": "@1234"}, {"id": "01992f3a-7c2e-7"}],
    )
    async def get(self, id: EventReference, context: EventContext) -> OneEvent:
        """Give one event."""
        return OneEvent(shown(await find_event(self._log, id, branch=context.branch)))

    @query("log:verify", timeout=None, examples=[{}])
    async def verify(self) -> Verified:
        """Look whether what is stored is whole: digests, the chain of commits, the witness of the head."""
        return Verified(list(await self._log.verify()), await self._log.head() or 0)

    @query("log:streams", examples=[{}, {"pattern": "conversation/"}])
    async def streams(
        self,
        context: EventContext,
        pattern: Annotated[str, Meta(description="names of streams, as in conversation/*")] = "*",
        limit: Limit = 100,
    ) -> Streams:
        """List the streams of the log by name."""
        found: list[ShownStream] = []
        async for stream in self._log.streams(pattern, branch=context.branch):
            found.append(ShownStream(stream.name, stream.version, stream.position))
            if len(found) == limit:
                break
        return Streams(found)


def _moment(time_us: int) -> datetime:
    try:
        return utc(time_us)
    except OverflowError:
        raise ValidationError(f"since_us: {time_us} is no time between the years 1 and 9999") from None


def _next(last: int, request: ReadLog) -> Position:
    return Position(last - 1 if request.backwards else last)
