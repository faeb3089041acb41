"""Spans on their way to a collector, by OTLP over HTTP. Needs the extra ``otel``.

The loop only puts spans into a bounded queue; they are encoded and sent in a thread, a batch after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ksi.core.errors import ConfigError
from ksi.core.threads import Threads
from ksi.core.tracing import Span

QUEUED_MAX = 8_192
BATCH_MAX = 512
INTERVAL = 1.0
"""Seconds between batches."""
SEND_TIMEOUT = 5.0
STOP_TIMEOUT = 2.0
"""Seconds that the last batch has when the daemon stops."""
_log = logging.getLogger("ksi.observe")
Send = Callable[[Sequence[Span]], bool]


class Exporter:
    """Sends what :meth:`put` is given, until it is closed. What the collector does not take is dropped and counted."""

    def __init__(self, send: Send, threads: Threads) -> None:
        self.dropped = 0
        self._send = send
        self._threads = threads
        self._queue: deque[Span] = deque()
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, spans: Sequence[Span]) -> None:
        """Take them, as far as there is room."""
        room = QUEUED_MAX - len(self._queue)
        self._queue.extend(spans[:room])
        self.dropped += max(0, len(spans) - room)
        self._news.set()

    async def close(self) -> None:
        """Send what is left, but not for ever."""
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                while self._queue:
                    await self._send_batch()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(INTERVAL)
            self._news.clear()
            while self._queue:
                await self._send_batch()

    async def _send_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
        if not await self._threads.run("blocking", lambda: self._send(batch)):
            self.dropped += len(batch)
            _log.warning("the collector did not take %d spans", len(batch))


def otlp_sender(endpoint: str, *, service: str) -> Send:
    """Sends spans to ``endpoint``, under the name of ``service``.

    Raises:
        ConfigError: The extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # an extra
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError:
        raise ConfigError("sending spans needs more: pip install 'ksi[otel]'", where="trace.endpoint") from None
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_TIMEOUT)
    resource = Resource({"service.name": service})
    return lambda spans: exporter.export([_readable(span, resource) for span in spans]) is SpanExportResult.SUCCESS


def _readable(span: Span, resource: Any) -> Any:
    """``span`` as the SDK has it; the imports are the extra's."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(span_id: str) -> Any:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)

    attributes = {"ksi.event_id": span.event_id} | ({} if span.error is None else {"error.type": span.error})
    return ReadableSpan(
        name=span.name,
        context=context(span.span_id),
        parent=None if span.parent_id is None else context(span.parent_id),
        resource=resource,
        attributes=attributes,
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.OK if span.error is None else StatusCode.ERROR, span.error),
        start_time=span.start_us * 1000,
        end_time=(span.start_us + span.duration_us) * 1000,
        instrumentation_scope=InstrumentationScope("ksi"),
    )
