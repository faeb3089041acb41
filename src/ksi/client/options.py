"""What a caller may say beside the payload."""

from __future__ import annotations

import msgspec

BUFFER_SIZE = 16
"""Chunks of a stream that may be under way to a reader who does not take them."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one request is made; ``timeout`` in seconds, ids as text.

    ``branch`` None is that of the event which is being handled, or else the client's. ``idempotent`` False sends it
    without an event id: then it is never sent again when the connection is lost. ``traceparent`` is the W3C trace
    context that the request belongs to; default the variable ``TRACEPARENT``, inside a handler that of the event.
    ``subject`` is whose personal data this is: what is recorded for it can be erased.
    """

    timeout: float | None = None
    priority: int = 0
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    branch: str | None = None
    subject: str | None = None
    buffer_size: int = BUFFER_SIZE
    idempotent: bool = True
    traceparent: str | None = None


DEFAULT = Options()
