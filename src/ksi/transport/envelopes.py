"""Frames become envelopes."""

from __future__ import annotations

from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope
from ksi.core.events import MAIN
from ksi.kernel.door import Session
from ksi.wire.frames import Frame, id_bytes


def envelope_of(frame: Frame, session: Session, clock: Clock) -> EventEnvelope:
    """The request that ``frame`` makes, in the name of who sent it.

    Raises:
        InvalidFrameError: An id in it is no UUID.
    """
    envelope = EventEnvelope(name=frame.event or "", raw=frame.raw, principal=session.principal, source=session.source)
    if frame.correlation_id is not None:
        envelope.correlation = frame.correlation_id
    if frame.branch is not MAIN:
        envelope.branch = frame.branch
    if frame.priority:
        envelope.priority = frame.priority
    if frame.traceparent is not None:
        envelope.traceparent = frame.traceparent
    if frame.event_id is not None:
        envelope.id = id_bytes(frame.event_id, field="event_id")
    if frame.causation_id is not None:
        envelope.cause = id_bytes(frame.causation_id, field="causation_id")
    if frame.timeout is not None:
        envelope.deadline_us = clock.time_us() + int(frame.timeout * 1_000_000)
    return envelope
