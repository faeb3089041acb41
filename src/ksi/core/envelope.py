"""The envelope: a named payload with its metadata, and the CloudEvents form of it.

An envelope is flat and lazy: made from what the caller gave, ids and stamps are built when somebody asks. So a query
that nobody records never pays for an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from os import urandom
from typing import Any, Self

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock, SystemClock, microseconds, utc
from ksi.core.errors import HopLimitError, ValidationError
from ksi.core.events import MAIN

HOPS_MAX = 64
_CLOCK = SystemClock()


class EventMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an event beside its payload. Ids as text; ``deadline`` and ``timestamp`` are UTC-aware."""

    event_id: str
    correlation_id: str
    causation_id: str | None = None
    timestamp: datetime
    source: str
    principal: str
    branch: str = MAIN
    trace_id: str | None = None
    span_id: str | None = None
    deadline: datetime | None = None
    hops: int = 0
    subject: str | None = None
    rule: str | None = None
    schema_version: int = 1


class EventEnvelope(msgspec.Struct, kw_only=True, dict=True):
    """One event on its way. ``raw`` is the payload's JSON; ``data`` the same, decoded.

    The fields with an ``_id`` are raw bytes or text as stored; use :attr:`metadata` for the readable form.
    """

    name: str
    raw: bytes = b"{}"
    principal: str = "local"
    source: str = "ksi"
    branch: str = MAIN
    id: bytes | None = None
    correlation: str | None = None
    cause: bytes | None = None
    time_us: int = 0
    deadline_us: int | None = None
    priority: int = 0
    hops: int = 0
    subject: str | None = None
    rule: str | None = None
    traceparent: str | None = None
    schema_version: int = 1
    path: str = ""
    """Causal path from the run's root: event names and ordinals for each parent, never ids or times."""

    @classmethod
    def create(
        cls,
        event_name: str,
        data: Mapping[str, Any] | msgspec.Struct | bytes = b"{}",
        source: str = "ksi",
        *,
        clock: Clock = _CLOCK,
        **metadata: Any,
    ) -> Self:
        """An envelope with a fresh id, stamped now. ``metadata`` takes this class's own field names."""
        raw = data if isinstance(data, bytes) else canonical.encode(data)
        return cls(name=event_name, raw=raw, source=source, id=ids.new_id(), time_us=clock.time_us(), **metadata)

    def caused_by(self, parent: EventEnvelope) -> Self:
        """This envelope as an effect of ``parent``: run, trace, principal, branch, subject and deadline flow on.

        Raises:
            HopLimitError: The chain is longer than :data:`HOPS_MAX`.
        """
        if parent.hops >= HOPS_MAX:
            raise HopLimitError(self.name, limit=HOPS_MAX)
        self.correlation = parent.correlation_id
        self.cause = parent.event_id
        self.principal = parent.principal
        self.branch = parent.branch
        self.subject = self.subject or parent.subject
        self.traceparent = parent.traceparent
        self.hops = parent.hops + 1
        self.deadline_us = min_deadline(self.deadline_us, parent.deadline_us)
        return self

    @property
    def event_name(self) -> str:
        return self.name

    @property
    def event_id(self) -> bytes:
        """The 16 bytes of the id, made when first asked for."""
        if self.id is None:
            self.id = ids.new_id()
        return self.id

    @property
    def correlation_id(self) -> str:
        """The run that this belongs to: that of its cause, else its own id."""
        if self.correlation is None:
            self.correlation = ids.text(self.event_id)
        return self.correlation

    @property
    def data(self) -> Any:
        """The payload as builtins."""
        cache = self.__dict__
        if cache.get("of") is not self.raw:
            cache["of"], cache["data"] = self.raw, canonical.decode(self.raw)
        return cache["data"]

    @property
    def metadata(self) -> EventMetadata:
        trace_id, span_id = trace_of(self.traceparent)
        return EventMetadata(
            event_id=ids.text(self.event_id),
            correlation_id=self.correlation_id,
            causation_id=None if self.cause is None else ids.text(self.cause),
            timestamp=utc(self.time_us or _CLOCK.time_us()),
            source=self.source,
            principal=self.principal,
            branch=self.branch,
            trace_id=trace_id,
            span_id=span_id,
            deadline=None if self.deadline_us is None else utc(self.deadline_us),
            hops=self.hops,
            subject=self.subject,
            rule=self.rule,
            schema_version=self.schema_version,
        )

    def to_cloudevent(self) -> dict[str, Any]:
        """CloudEvents 1.0, structured JSON form; what has no standard name becomes an extension attribute."""
        optional = {
            "ksicorrelation": self.correlation_id,
            "ksicause": None if self.cause is None else ids.text(self.cause),
            "ksiprincipal": self.principal,
            "ksibranch": self.branch,
            "ksihops": self.hops,
            "ksisubject": self.subject,
            "ksirule": self.rule,
            "ksipath": self.path or None,
            "ksipriority": self.priority or None,
            "ksideadline": None if self.deadline_us is None else utc(self.deadline_us).isoformat(),
            "ksischemaversion": self.schema_version,
            "traceparent": self.traceparent,
        }
        return {
            "specversion": "1.0",
            "id": ids.text(self.event_id),
            "type": self.name,
            "source": self.source,
            "time": utc(self.time_us or _CLOCK.time_us()).isoformat(),
            "datacontenttype": "application/json",
            "data": self.data,
        } | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_cloudevent(cls, event: Mapping[str, Any]) -> Self:
        """The envelope that a structured CloudEvent stands for.

        Raises:
            ValidationError: A required attribute is missing, or the version is not 1.0.
        """
        missing = [name for name in ("specversion", "id", "type", "source") if not isinstance(event.get(name), str)]
        if missing or event["specversion"] != "1.0":
            raise ValidationError(f"no CloudEvent 1.0: {', '.join(missing) or 'specversion'} is missing or wrong")
        try:
            time_us = microseconds(datetime.fromisoformat(event["time"])) if "time" in event else 0
            deadline = event.get("ksideadline")
            deadline_us = None if deadline is None else microseconds(datetime.fromisoformat(deadline))
        except (TypeError, ValueError) as error:
            raise ValidationError(f"no CloudEvent 1.0: {error}") from None
        return cls(
            name=event["type"],
            raw=canonical.encode(event.get("data", {})),
            source=event["source"],
            id=ids.parse(event["id"]),
            time_us=time_us,
            deadline_us=deadline_us,
            correlation=event.get("ksicorrelation"),
            cause=ids.parse(event["ksicause"]) if "ksicause" in event else None,
            principal=event.get("ksiprincipal", "local"),
            branch=event.get("ksibranch", MAIN),
            hops=event.get("ksihops", 0),
            subject=event.get("ksisubject"),
            rule=event.get("ksirule"),
            path=event.get("ksipath", ""),
            priority=event.get("ksipriority", 0),
            schema_version=event.get("ksischemaversion", 1),
            traceparent=event.get("traceparent"),
        )


def min_deadline(one: int | None, other: int | None) -> int | None:
    """The earlier of two deadlines (microseconds); None is never."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def new_traceparent() -> str:
    """A fresh W3C trace context."""
    return f"00-{urandom(16).hex()}-{urandom(8).hex()}-01"


def child_span(traceparent: str | None) -> str:
    """The trace context of a new span below ``traceparent``, or of a new trace where it is none."""
    trace_id, _ = trace_of(traceparent)
    return new_traceparent() if trace_id is None else f"00-{trace_id}-{urandom(8).hex()}-01"


def trace_of(traceparent: str | None) -> tuple[str | None, str | None]:
    """Trace and span id of a W3C ``traceparent``; (None, None) where it is none."""
    parts = (traceparent or "").split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16:
        return None, None
    return parts[1], parts[2]
