"""Streams over HTTP: server-sent events, or a JSON object a line (NDJSON).

The address of a recorded stream is the first thing said, before there is anything else; each chunk has its own. So
whoever loses the connection goes on after the last one with ``GET /v1/stream/ADDRESS``, and that is never a second run.

A reader that stops reading stops the work: chunks are asked for by credit, and credit is given for what the connection
took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import InvalidFrameError, KSIError
from ksi.kernel.door import StreamCall
from ksi.transport.http.events import Requests
from ksi.transport.http.exchange import Exchange, Gone
from ksi.transport.http.problems import NotReadOnlyError
from ksi.transport.streams import Window
from ksi.wire.answers import encode_json, error_json

CREDIT = 16
"""Chunks that may be on their way to one reader."""
FIRST_CREDIT = 1
"""The same before it is known how large they are."""
UNLIMITED = 1 << 62
HEARTBEAT = 15.0
"""Seconds of silence after which something is said, so that a dead peer is found and no proxy gives up."""
RESUME_PATIENCE = 1.0
"""Seconds that a resume waits before it says that it is there: in that time most that is not there is found out."""
END_GRACE = 10.0
"""Seconds that a reader has to take the end of its stream."""


class Format(Protocol):
    """How a stream is written."""

    media: bytes
    heartbeat: bytes

    def opening(self, at: str) -> bytes: ...
    def chunk(self, at: str | None, raw: bytes) -> bytes: ...
    def gap(self, info: Mapping[str, Any]) -> bytes: ...
    def end(self, raw: bytes | None, error: KSIError | None) -> bytes: ...


class ServerSentEvents:
    """``id`` is the durable address, so that a browser resumes by itself; the last event is ``end`` or ``failure``."""

    media = b"text/event-stream"
    heartbeat = b":\n\n"

    def opening(self, at: str) -> bytes:
        address = at.encode()
        return b'event: open\nid: %b\ndata: {"at":%b}\n\n' % (address, encode_json(at))

    def chunk(self, at: str | None, raw: bytes) -> bytes:
        return b"data: %b\n\n" % raw if at is None else b"id: %b\ndata: %b\n\n" % (at.encode(), raw)

    def gap(self, info: Mapping[str, Any]) -> bytes:
        return b"event: gap\ndata: %b\n\n" % encode_json(info)

    def end(self, raw: bytes | None, error: KSIError | None) -> bytes:
        if error is not None:
            return b"event: failure\ndata: %b\n\n" % error_json(error)
        return b"event: end\ndata: %b\n\n" % (raw or b"null")


class JsonLines:
    """The frames of the wire protocol without ``id`` and ``seq``; an empty line says that the stream lives."""

    media = b"application/x-ndjson"
    heartbeat = b"\n"

    def opening(self, at: str) -> bytes:
        return b'{"at":%b}\n' % encode_json(at)

    def chunk(self, at: str | None, raw: bytes) -> bytes:
        return b'{"data":%b}\n' % raw if at is None else b'{"at":%b,"data":%b}\n' % (encode_json(at), raw)

    def gap(self, info: Mapping[str, Any]) -> bytes:
        return b'{"gap":%b}\n' % encode_json(info)

    def end(self, raw: bytes | None, error: KSIError | None) -> bytes:
        if error is not None:
            return b'{"end":true,"error":%b}\n' % error_json(error)
        return b'{"end":true,"data":%b}\n' % (raw or b"null")


FORMATS: tuple[Format, ...] = (ServerSentEvents(), JsonLines())


class Outlet:
    """A :class:`~ksi.kernel.door.Sink` that writes to an HTTP client."""

    def __init__(self, exchange: Exchange, form: Format) -> None:
        self._exchange = exchange
        self._form = form
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._news = asyncio.Event()
        self._window = Window(UNLIMITED, first_chunks=FIRST_CREDIT, chunks_max=CREDIT)
        self._chunks = 0  #: among the parts
        self._cut: asyncio.TimerHandle | None = None
        self.is_ended = False
        self.refusal: KSIError | None = None
        """The error of a stream that ended with its first word."""

    # ── as the router sees it ────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, at: str) -> None:
        self._put(self._form.opening(at))

    def chunk(self, at: str | None, raw: bytes) -> None:
        self._window.came(len(raw))
        self._chunks += 1
        self._put(self._form.chunk(at, raw))

    def gap(self, info: Mapping[str, Any]) -> None:
        self._put(self._form.gap(info))

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        self.refusal = None if self._parts else error
        self._put(self._form.end(raw, error))
        self._cut = self._loop.call_later(END_GRACE, self._exchange.abort)

    def first_credit(self) -> int:
        """What a stream that begins is asked for."""
        return self._window.next()

    def close(self) -> None:
        """All is written, or the client is gone."""
        if self._cut is not None:
            self._cut.cancel()

    def _put(self, part: bytes) -> None:
        self._parts.append(part)
        self._news.set()

    # ── to the client ────────────────────────────────────────────────────────────────────────────────────────────────
    async def pour(self, call: StreamCall, at: str, patience: float | None) -> None:
        """Write all that comes, from the headers to the end.

        Args:
            at: Address that the stream opens with; empty where it has none.
            patience: Seconds to wait for what may be a refusal, None for as long as it takes.

        Raises:
            KSIError: It was refused before there was anything to say.
        """
        if patience != 0.0:
            await self._first_news(patience)
        if self.refusal is not None:
            raise self.refusal
        exchange, form = self._exchange, self._form
        await exchange.start(200, [(b"content-type", form.media), (b"x-accel-buffering", b"no")])
        await exchange.write(form.opening(at) if at else b"")  # also where it is nothing: the head goes out with it
        while True:
            await self._news_or_heartbeat()
            is_last, body, chunks = self._take()
            await exchange.write(body, is_last=is_last)
            if is_last:
                return
            self._window.took(chunks)
            if portion := self._window.next():
                call.grant(portion)

    async def _first_news(self, patience: float | None) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._news.wait()
        except TimeoutError:
            return

    async def _news_or_heartbeat(self) -> None:
        if self._news.is_set():
            return
        beat = self._loop.call_later(HEARTBEAT, self._put, self._form.heartbeat)
        try:
            await self._news.wait()
        finally:
            beat.cancel()

    def _take(self) -> tuple[bool, bytes, int]:
        """What there is to write, whether it is the end, and how many chunks it holds."""
        body, chunks = b"".join(self._parts), self._chunks
        self._parts.clear()
        self._chunks = 0
        self._news.clear()
        return self.is_ended, body, chunks


class Streams:
    """``/v1/stream`` and ``/v1/subscribe``."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._door = requests.door

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def post(self, exchange: Exchange) -> None:
        """Start a stream."""
        await self._open(exchange, await self._requests.posted(exchange, exchange.parameter("name")))

    async def subscribe(self, exchange: Exchange) -> None:
        """Follow the log; an ``EventSource`` that connects again goes on after the last event that it saw."""
        last = exchange.headers.get(b"last-event-id", b"").decode("latin-1")
        fixed = {"after": last} if last else None
        await self._open(exchange, self._requests.queried(exchange, "event:subscribe", fixed))

    async def resume(self, exchange: Exchange) -> None:
        """Read a stream that somebody started: the chunks after an address, then live, then the end."""
        address = _resumed(exchange)
        outlet = Outlet(exchange, _format(exchange))
        call = self._door.resume(address, exchange.session, outlet, outlet.first_credit())
        await self._serve(exchange, outlet, call, at=address, patience=RESUME_PATIENCE)

    async def _open(self, exchange: Exchange, envelope: EventEnvelope) -> None:
        outlet = Outlet(exchange, _format(exchange))
        size = len(envelope.raw)
        self._requests.hold(size)
        try:
            call = self._door.open_stream(envelope, exchange.session, outlet, outlet.first_credit())
            at = f"{call.stream}@0" if call.stream else ""
            # None: it is refused, or no stream at all. Its end is all that comes, and may be a status of its own.
            await self._serve(exchange, outlet, call, at=at, patience=None if call.stream is None else 0.0)
        finally:
            self._requests.release(size)

    async def _serve(
        self, exchange: Exchange, outlet: Outlet, call: StreamCall, *, at: str, patience: float | None
    ) -> None:
        leaving = asyncio.ensure_future(exchange.gone())
        pouring = asyncio.ensure_future(outlet.pour(call, at, patience))
        try:
            await asyncio.wait((leaving, pouring), return_when=asyncio.FIRST_COMPLETED)
            if not pouring.done():
                raise Gone
            await pouring
        finally:
            leaving.cancel()
            pouring.cancel()
            outlet.close()
            if not outlet.is_ended:
                call.disconnected()


def _format(exchange: Exchange) -> Format:
    """As the client accepts it; server-sent events where it does not say."""
    return next((form for form in FORMATS if exchange.accepts(form.media)), FORMATS[0])


def is_event_name(text: str) -> bool:
    """Or else, maybe, that of a stream: it has a slash."""
    return ":" in text and "/" not in text


def _resumed(exchange: Exchange) -> str:
    """Where to go on: after ``Last-Event-ID``, else ``after``, else the address in the path, else from the start.

    Raises:
        InvalidFrameError: The address is of another stream.
        NotReadOnlyError: It is an event's name: streams have a slash in theirs.
    """
    stream, _, version = exchange.parameter("address").partition("@")
    if is_event_name(stream):
        raise NotReadOnlyError(stream)
    last = exchange.headers.get(b"last-event-id", b"").decode("latin-1") or exchange.query_value("after")
    if last.isdecimal():
        return f"{stream}@{last}"
    if last and last.rpartition("@")[0] != stream:
        raise InvalidFrameError(f"{last!r} is no address in {stream!r}", address=last)
    return last or f"{stream}@{version or 0}"
