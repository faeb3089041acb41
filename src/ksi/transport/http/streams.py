"""Streams over HTTP: server-sent events, or a JSON object a line (NDJSON).

The address of a recorded stream is the first thing said, before there is anything else; each chunk has its own. So
whoever loses the connection goes on after the last one with ``GET /v1/stream/ADDRESS``, and that is never a second run.

Whoever begins with ``KSI-Credit`` is told who it is as a reader (``KSI-Reader``), and grants more under that name.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import InvalidFrameError, NotFoundError, UnauthorizedError, ValidationError
from ksi.kernel.door import StreamCall
from ksi.transport.http.events import Requests
from ksi.transport.http.exchange import Answer, Exchange, Gone
from ksi.transport.http.formats import format_of
from ksi.transport.http.outlet import Outlet
from ksi.transport.http.problems import NotReadOnlyError
from ksi.wire.frames import CREDIT_MAX

GRANT_BYTES_MAX = 1_024
RESUME_PATIENCE = 1.0
"""Seconds that a resume waits before it says that it is there: in that time most that is not there is found out."""


class Granted(msgspec.Struct, forbid_unknown_fields=True):
    """What a reader is ready for, in chunks since it began: said again, it is the same."""

    credit: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Streams:
    """``/v1/stream``, ``/v1/subscribe`` and ``/v1/readers``."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._door = requests.door
        self._readers: dict[str, tuple[str, Outlet]] = {}
        """Whose streams are open, by what they are told that they are called."""

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
        outlet = self._outlet(exchange)
        call = self._door.resume(address, exchange.session, outlet, outlet.first_credit())
        await self._serve(exchange, outlet, call, at=address, patience=RESUME_PATIENCE)

    async def grant(self, exchange: Exchange) -> None:
        """Let a stream go on."""
        granted = _granted(await exchange.body(GRANT_BYTES_MAX))
        self._reader(exchange).grant(granted)
        await exchange.answer(Answer(status=202, body=b"{}"))

    async def cancel(self, exchange: Exchange) -> None:
        """Cancel a stream in the name of one reader: what others read as well goes on for them."""
        self._reader(exchange).cancel()
        await exchange.answer(Answer(status=202, body=b"{}"))

    def _reader(self, exchange: Exchange) -> Outlet:
        """Raises NotFoundError, also where it is somebody else's."""
        reader = exchange.parameter("reader")
        principal, outlet = self._readers.get(reader, ("", None))
        if outlet is None or principal != exchange.session.principal:
            raise NotFoundError("reader", reader)
        return outlet

    async def _open(self, exchange: Exchange, envelope: EventEnvelope) -> None:
        outlet = self._outlet(exchange)
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
        outlet.begin(call)
        reader = secrets.token_hex(8)
        self._readers[reader] = exchange.session.principal, outlet
        headers = [(b"ksi-reader", reader.encode())]
        stop_watching = self._watched(exchange, outlet, call)
        leaving = asyncio.ensure_future(exchange.gone())
        pouring = asyncio.ensure_future(outlet.pour(headers, at, patience))
        try:
            await asyncio.wait((leaving, pouring), return_when=asyncio.FIRST_COMPLETED)
            if not pouring.done():
                raise Gone
            await pouring
        finally:
            leaving.cancel()
            pouring.cancel()
            self._readers.pop(reader, None)
            stop_watching()
            outlet.close()
            if not outlet.is_ended:
                call.disconnected()

    def _outlet(self, exchange: Exchange) -> Outlet:
        limit = self._requests.limits.frame_bytes_max
        return Outlet(exchange, format_of(exchange), _credit_of(exchange), frame_bytes_max=limit)

    def _watched(self, exchange: Exchange, outlet: Outlet, call: StreamCall) -> Callable[[], None]:
        """End it with its token."""

        def lapsed(error: UnauthorizedError) -> None:
            if not outlet.is_ended:
                outlet.end(None, error)
                call.disconnected()

        assert self._requests.tokens is not None
        return self._requests.tokens.watch(exchange.token, lapsed)


def is_event_name(text: str) -> bool:
    """Or else, maybe, that of a stream: it has a slash."""
    return ":" in text and "/" not in text


def _credit_of(exchange: Exchange) -> int | None:
    """What a reader grants at first; None: it never says. Raises InvalidFrameError."""
    said = exchange.headers.get(b"ksi-credit")
    if said is None:
        return None
    if not said.isdigit() or int(said) > CREDIT_MAX:
        raise InvalidFrameError(f"a header is wrong: ksi-credit is a number of chunks, at most {CREDIT_MAX}")
    return int(said)


def _granted(body: bytes) -> int:
    """Raises ValidationError."""
    try:
        return msgspec.json.decode(body, type=Granted).credit
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"no credit: {error}") from None


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
