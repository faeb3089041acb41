"""The envelope: a named payload with its metadata, and the CloudEvents form of it.

An envelope is flat and lazy: made from what the caller gave, ids and stamps are built when somebody asks. So a query
that nobody records never pays for an id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec

from ksi.core import canonical, ids
from ksi.core.clock import Clock, SystemClock, microseconds, utc
from ksi.core.errors import HopLimitError, ValidationError
from ksi.core.events import MAIN

HOPS_MAX = 64
_CLOCK = SystemClock()
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


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


class EventEnvelope(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """One event on its way. ``raw`` is the payload's JSON; ``data`` the same, decoded; ``typed`` the same as a struct.

    The log stores a request as it stands here, so the order of the fields is a part of its format; new ones go to the
    end, with a default.

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
    typed: msgspec.Struct | None = None
    """The payload, where the door has decoded it in one pass with its frame; ``raw`` is unset until it is asked for."""

    def __getattr__(self, name: str) -> bytes:
        # Only what is unset is looked for here.
        if name != "raw" or self.typed is None:
            raise AttributeError(name)
        self.raw = raw = canonical.encode(self.typed)
        return raw

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
        self.traceparent = None if parent.traceparent is None else parent.trace_context
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
    def trace(self) -> tuple[str, str]:
        """Ids of its trace and of its own span, in hex. The trace is its caller's, else that of its run."""
        trace_id, _ = trace_of(self.traceparent)
        return trace_id or trace_of_run(self.correlation_id), self.event_id[8:].hex()

    @property
    def trace_context(self) -> str:
        """The W3C ``traceparent`` of what is done in its name."""
        trace_id, span_id = self.trace
        return f"00-{trace_id}-{span_id}-01"

    @property
    def data(self) -> Any:
        """The payload as builtins, decoded anew each time."""
        return canonical.decode(self.raw)

    @property
    def metadata(self) -> EventMetadata:
        trace_id, span_id = self.trace
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
            ValidationError: An attribute is missing or of a wrong type, or the version is not 1.0.
        """
        try:
            given = msgspec.convert(event, _CloudEvent)
        except msgspec.ValidationError as error:
            raise ValidationError(f"no CloudEvent 1.0: {error}") from None
        return cls(
            name=given.type,
            raw=canonical.encode(given.data),
            source=given.source,
            id=given.id.bytes,
            time_us=0 if given.time is None else microseconds(given.time),
            deadline_us=None if given.ksideadline is None else microseconds(given.ksideadline),
            correlation=given.ksicorrelation,
            cause=None if given.ksicause is None else given.ksicause.bytes,
            principal=given.ksiprincipal,
            branch=given.ksibranch,
            hops=given.ksihops,
            subject=given.ksisubject,
            rule=given.ksirule,
            path=given.ksipath,
            priority=given.ksipriority,
            schema_version=given.ksischemaversion,
            traceparent=given.traceparent,
        )


class _CloudEvent(msgspec.Struct, kw_only=True):
    """What :meth:`EventEnvelope.from_cloudevent` reads; other extensions are passed over."""

    specversion: Literal["1.0"]
    id: UUID
    type: str
    source: str
    time: _Moment | None = None
    data: Any = {}
    ksicorrelation: str | None = None
    ksicause: UUID | None = None
    ksiprincipal: str = "local"
    ksibranch: str = MAIN
    ksihops: int = 0
    ksisubject: str | None = None
    ksirule: str | None = None
    ksipath: str = ""
    ksipriority: int = 0
    ksideadline: _Moment | None = None
    ksischemaversion: int = 1
    traceparent: str | None = None


def path_of(envelope: EventEnvelope, scope: str) -> str:
    """Causal path of what a handler of ``envelope`` does; ``scope`` tells it from the other handlers of the event."""
    path = envelope.path or envelope.name
    return f"{path}[{scope}]" if scope else path


def min_deadline(one: int | None, other: int | None) -> int | None:
    """The earlier of two deadlines (microseconds); None is never."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def trace_of_run(correlation: str) -> str:
    """The trace of a run that no caller gave one: its id, where that is a UUID."""
    digits = correlation.replace("-", "").lower()
    return digits if _TRACE_ID.fullmatch(digits) else blake2b(correlation.encode(), digest_size=16).hexdigest()


def trace_of(traceparent: str | None) -> tuple[str | None, str | None]:
    """Trace and span id of a W3C ``traceparent``; (None, None) where it is none."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return (None, None) if match is None else (match[1], match[2])
