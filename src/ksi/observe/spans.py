"""Spans of requests, kept or dropped when all that belongs together has its answers.

What is measured of a run is a few numbers for each request; spans are made of them only where the run is kept: because
something failed, was slow, or by lot. The lot is drawn by the run's id, so that all daemons it passes keep it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from os import urandom
from zlib import crc32

import msgspec

from ksi.core import ids
from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope, trace_of
from ksi.core.errors import KSIError
from ksi.core.tracing import Span

RUNS_OPEN_MAX = 4_096
REQUESTS_MAX = 1_000
"""Of one run that are measured at the same time."""
PARTS_MAX = 100
"""Of one request."""
SPANS_KEPT_MAX = 20_000
_Part = tuple[str, int, int, KSIError | None, bool]
Export = Callable[[Sequence[Span]], None]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are kept: those with an error, with a request of ``slow`` seconds, and a ``share`` (0 to 1) of all."""

    share: float
    slow: float

    def keeps(self, run: str, requests: Sequence[Measurement]) -> bool:
        slow_us = self.slow * 1e6
        return crc32(run.encode()) < self.share * (1 << 32) or any(
            each.error is not None or each.duration_us >= slow_us for each in requests
        )


class Measurement:
    """Implements :class:`~ksi.core.tracing.Measured`."""

    __slots__ = ("_open", "_spans", "began_us", "duration_us", "envelope", "error", "parts")

    def __init__(self, spans: Spans, run: OpenRun, envelope: EventEnvelope, began_us: int) -> None:
        self._spans = spans
        self._open: OpenRun | None = run
        self.envelope = envelope
        self.began_us = began_us
        self.duration_us = 0
        self.error: KSIError | None = None
        self.parts: list[_Part] = []

    def now(self) -> int:
        return self._spans.clock.time_us()

    def part(self, name: str, began_us: int, error: KSIError | None, *, goes_out: bool = False) -> None:
        if self._open is None or len(self.parts) >= PARTS_MAX:
            self._spans.dropped += 1
            return
        self.parts.append((name, began_us, self.now() - began_us, error, goes_out))

    def end(self, error: KSIError | None) -> None:
        run, self._open = self._open, None
        if run is not None:
            self.duration_us = self.now() - self.began_us
            self.error = error
            self._spans.ended(run)


class OpenRun:
    """What is measured of one run, until nothing of it is under way."""

    __slots__ = ("requests", "run", "under_way")

    def __init__(self, run: str) -> None:
        self.run = run
        self.requests: list[Measurement] = []
        self.under_way = 0


class Spans:
    """Implements :class:`~ksi.core.tracing.Tracer`. ``export`` gets each run that is kept."""

    def __init__(self, clock: Clock, sampling: Sampling, export: Export | None = None) -> None:
        self.clock = clock
        self.dropped = 0
        """Spans that were one too many."""
        self._sampling = sampling
        self._export = export
        self._open: dict[str, OpenRun] = {}
        self._kept: OrderedDict[str, list[Span]] = OrderedDict()
        self._kept_count = 0
        self._numbers = count(int.from_bytes(urandom(7), "big"))

    def begin(self, request: EventEnvelope) -> Measurement | None:
        run = self._open.get(request.correlation_id)
        if run is None:
            if len(self._open) >= RUNS_OPEN_MAX:
                self.dropped += 1
                return None
            run = self._open[request.correlation_id] = OpenRun(request.correlation_id)
        if len(run.requests) >= REQUESTS_MAX:
            self.dropped += 1
            return None
        measurement = Measurement(self, run, request, self.clock.time_us())
        run.requests.append(measurement)
        run.under_way += 1
        return measurement

    def of_run(self, run: str) -> Sequence[Span]:
        return self._kept.get(run, ())

    def ended(self, run: OpenRun) -> None:
        """A request of ``run`` has its answer; with the last one it is decided whether all is kept."""
        run.under_way -= 1
        if run.under_way:
            return
        del self._open[run.run]
        if run.run in self._kept or self._sampling.keeps(run.run, run.requests):
            self._keep(run.run, [span for each in run.requests for span in self._spans_of(each)])

    def _keep(self, run: str, spans: list[Span]) -> None:
        self._kept.setdefault(run, []).extend(spans)
        self._kept.move_to_end(run)
        self._kept_count += len(spans)
        while self._kept_count > SPANS_KEPT_MAX and len(self._kept) > 1:
            self._kept_count -= len(self._kept.popitem(last=False)[1])
        if self._export is not None:
            self._export(spans)

    def _spans_of(self, request: Measurement) -> Iterator[Span]:
        envelope = request.envelope
        (trace_id, span_id), (_, above) = envelope.trace, trace_of(envelope.traceparent)
        if above is None and envelope.cause is not None:
            above = envelope.cause[8:].hex()
        event_id = ids.text(envelope.event_id)
        for name, began_us, duration_us, error, goes_out in request.parts:
            yield Span(
                trace_id=trace_id,
                span_id=f"{next(self._numbers):016x}",
                parent_id=span_id,
                name=name,
                kind="client" if goes_out else "internal",
                start_us=began_us,
                duration_us=max(0, duration_us),
                error=None if error is None else error.code,
                event_id=event_id,
            )
        yield Span(
            trace_id=trace_id,
            span_id=span_id,
            parent_id=above,
            name=envelope.name,
            kind="server",
            start_us=request.began_us,
            duration_us=max(0, request.duration_us),
            error=None if request.error is None else request.error.code,
            event_id=event_id,
        )
