"""The event that is being handled here and now, for code that is far from the handler: log lines, threads, scripts.

It flows into tasks by itself (they copy the context) and into KSI's threads; ``bind_context`` carries it elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ksi.core.envelope import EventEnvelope

current: ContextVar[EventEnvelope | None] = ContextVar("ksi_event", default=None)


def event_context() -> EventEnvelope | None:
    """The envelope that is being handled; None outside of handlers."""
    return current.get()


@contextmanager
def bind_context(envelope: EventEnvelope) -> Iterator[EventEnvelope]:
    """Handle what follows in the name of ``envelope``: requests made here carry its run, cause, trace and deadline."""
    token = current.set(envelope)
    try:
        yield envelope
    finally:
        current.reset(token)
