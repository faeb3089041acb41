"""Frames become envelopes."""

from __future__ import annotations

from typing import Any

import msgspec

from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import InvalidFrameError
from ksi.core.events import MAIN
from ksi.kernel.door import Session
from ksi.wire.frames import Head, id_bytes, payload_json


def envelope_of(name: str, data: Any, frame: Head, session: Session, clock: Clock) -> EventEnvelope:
    """The request of event ``name`` that ``frame`` makes, in the name of who sent it.

    ``data`` is its payload, as ``msgspec.Raw`` or decoded already.

    Raises:
        InvalidFrameError: An id in it is no UUID, or its subject nobody.
    """
    if data.__class__ is msgspec.Raw:
        raw = payload_json(data)
        envelope = EventEnvelope(name=name, raw=raw, principal=session.principal, source=session.source)
    else:
        envelope = EventEnvelope(name=name, principal=session.principal, source=session.source, typed=data)
        del envelope.raw
    if frame.correlation_id is not None:
        envelope.correlation = frame.correlation_id
    if frame.branch is not MAIN:
        envelope.branch = frame.branch
    if frame.priority:
        envelope.priority = frame.priority
    if frame.traceparent is not None:
        envelope.traceparent = frame.traceparent
    if frame.subject is not None:
        if not frame.subject:
            raise InvalidFrameError("subject is empty: leave it out where it is nobody's data", field="subject")
        envelope.subject = frame.subject
    if frame.event_id is not None:
        envelope.id = id_bytes(frame.event_id, field="event_id")
    if frame.causation_id is not None:
        envelope.cause = id_bytes(frame.causation_id, field="causation_id")
    if frame.timeout is not None:
        envelope.deadline_us = clock.time_us() + int(frame.timeout * 1_000_000)
    return envelope
