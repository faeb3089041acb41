"""Numbers of requests, and what the original clients' monitor asks: the same, and recent events."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.clock import Clock, utc
from ksi.core.errors import ValidationError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.ports import EventLog
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from ksi.plugins.shapes import Limit

Moment = Annotated[float | str | None, Meta(description="seconds since 1970, or a time in ISO form")]


class GetEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events, in the words of the original clients."""

    event_patterns: Annotated[list[str] | None, Meta(description="names of events, as in agent:*")] = None
    client_id: Annotated[str | None, Meta(description="only what came from this source or principal")] = None
    since: Moment = None
    until: Moment = None
    limit: Limit = 100
    reverse: Annotated[bool, Meta(description="the newest first")] = True


class MonitoredEvent(msgspec.Struct, frozen=True):
    """An event in the form of the original clients; ``timestamp`` is in seconds since 1970."""

    event_name: str
    timestamp: float
    data: msgspec.Raw
    client_id: str | None
    correlation_id: str | None
    event_id: str
    kind: str
    position: int


class MonitoredEvents(msgspec.Struct, frozen=True):
    """``total_events`` is the log's last position: what there is, asked for or not."""

    events: list[MonitoredEvent]
    count: int
    total_events: int


class CallStats(msgspec.Struct, frozen=True):
    """How often an event was asked for since the start, and how often it failed, by code."""

    calls: int
    errors: dict[str, int]


class Stats(msgspec.Struct, frozen=True):
    """Numbers since the start; ``events`` names those that were asked for."""

    total_events: int
    uptime_s: float
    in_flight: int
    calls: int
    errors: int
    events: dict[str, CallStats]


class Metrics(msgspec.Struct, frozen=True):
    """Numbers since the start: requests, nested ones included, and errors by code, in all and by event."""

    uptime_s: float
    in_flight: int
    calls: int
    errors: dict[str, int]
    events: dict[str, CallStats]


class Monitor(AsyncPlugin):
    """Recent events and numbers."""

    name = "monitor"

    async def initialize(self) -> None:
        services = self.host.services
        self._log, self._clock = services.get(EventLog), services.get(Clock)
        self._started = self._clock.monotonic()

    @query("monitor:get_events", examples=[{"limit": 10}, {"event_patterns": ["state:*"], "reverse": False}])
    async def get_events(self, request: GetEvents) -> MonitoredEvents:
        """Give recorded requests and facts, the newest first."""
        wanted = Filter(
            names=tuple(request.event_patterns or ()),
            kinds=("fact", "request"),
            recorded_from=_moment(request.since),
            recorded_to=_moment(request.until),
        )
        found: list[MonitoredEvent] = []
        async for event in self._log.read_all((wanted,), backwards=request.reverse):
            if request.client_id is None or request.client_id in _origins(event):
                found.append(_monitored(event))
            if len(found) == request.limit:
                break
        return MonitoredEvents(found, len(found), await self._log.head() or 0)

    @query("monitor:get_stats", examples=[{}])
    async def get_stats(self) -> Stats:
        """Give the numbers of requests and errors since the start."""
        found = self.metrics()
        return Stats(
            total_events=await self._log.head() or 0,
            uptime_s=found.uptime_s,
            in_flight=found.in_flight,
            calls=found.calls,
            errors=sum(found.errors.values()),
            events=found.events,
        )

    @query("system:metrics", inline=True, examples=[{}])
    def metrics(self) -> Metrics:
        """Count requests and errors since the start, by event and code."""
        router = self.host.services.get(Router)
        asked = {name: CallStats(row.calls, row.errors) for name, row in sorted(router.table.items()) if row.calls}
        errors: Counter[str] = Counter()
        for stats in asked.values():
            errors.update(stats.errors)
        return Metrics(
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            in_flight=len(router.running) + len(router.queries),
            calls=sum(stats.calls for stats in asked.values()),
            errors=dict(errors.most_common()),
            events=asked,
        )


def _origins(event: RecordedEvent) -> tuple[str | None, str | None]:
    return event.metadata.get("source"), event.metadata.get("principal")


def _monitored(event: RecordedEvent) -> MonitoredEvent:
    return MonitoredEvent(
        event_name=event.name,
        timestamp=event.recorded_at.timestamp(),
        data=msgspec.Raw(event.raw),
        client_id=event.metadata.get("source"),
        correlation_id=event.correlation_id,
        event_id=str(event.event_id),
        kind=event.kind,
        position=event.position,
    )


def _moment(said: float | str | None) -> datetime | None:
    """Raises ValidationError where it is no time. One without a zone is UTC."""
    if said is None:
        return None
    try:
        if not isinstance(said, str):
            return utc(int(said * 1_000_000))
        moment = datetime.fromisoformat(said)
    except (ValueError, OverflowError):
        raise ValidationError(f"{said!r} is no time: write seconds since 1970, or 2026-11-24T06:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
