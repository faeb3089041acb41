"""What the kernel measures of requests, and the port through which it says so.

Ids need no place in the log: a request's span id is the last half of its event id, and its trace is the one that its
caller named, or else that of its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of work. Ids are hex, of 32 and 16 digits; times are microseconds; ``error`` is a code.

    A ``server`` span is a request. Parts of one are ``internal`` (``handler``, ``commit``), or ``client`` where they go
    out into the world (the name of an effect). ``event_id`` is that of the request, as text.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: Literal["server", "internal", "client"]
    start_us: int
    duration_us: int
    error: str | None
    event_id: str


class Measured(Protocol):
    """One request that is measured, from :meth:`Tracer.begin` on."""

    began_us: int

    def now(self) -> int:
        """The time, for ``began_us``."""

    def part(self, name: str, began_us: int, error: KSIError | None, *, goes_out: bool = False) -> None:
        """A part of it is over."""

    def end(self, error: KSIError | None) -> None:
        """It has its answer; nothing is said of it any more."""


class Tracer(Protocol):
    """Who wants to know. The router has None where nobody does, and then measures nothing."""

    dropped: int
    """Spans that were one too many."""

    def begin(self, request: EventEnvelope) -> Measured | None:
        """A request begins; None: it is one too many."""

    def of_run(self, run: str) -> Sequence[Span]:
        """What is kept of a run, in the order of the ends."""
