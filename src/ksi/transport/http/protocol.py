"""A connection that speaks HTTP: uvicorn's, with bounds on what a client may send and how long it may take.

Headers and bodies have to arrive within their time, so that who opens a thousand connections and says nothing (slow
loris) holds them for seconds only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal, cast

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ksi.core.errors import InvalidFrameError, KSIError, OverloadedError, PayloadTooLargeError
from ksi.transport.http.pace import Ahead
from ksi.transport.http.problems import LateRequestError, problem, status_of
from ksi.transport.http.websocket import WebSockets

HEADER_BYTES_MAX = 64 << 10
CONTINUE = b"HTTP/1.1 100 "
LINGER = 1.0
"""Seconds that a client which was refused has to read why."""
STANDING = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
"""Headers of every answer."""
Awaited = Literal["headers", "body"]


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of one server's connections; times in seconds."""

    connections_max: int
    header_timeout: float
    body_timeout: float


class Corked:
    """A transport that holds the head of an answer back until its body comes: one write for both, one packet."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(CONTINUE):
            self._head = data
        else:
            self._transport.write((self._head or b"") + data)
            self._head = b"" if self._head is not None else None

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._transport.close()


class HttpConnection(HttpToolsProtocol):
    """One client."""

    def __init__(self, config: Config, state: ServerState, bounds: Bounds, sockets: WebSockets) -> None:
        super().__init__(config, state, {"connection": self})
        self._bounds = bounds
        self._sockets = sockets
        self._awaited: Awaited | None = "headers"
        self._timed: Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._is_refused = False
        self._lost = asyncio.Event()
        self._ahead: Ahead | None = None

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────────────────────────
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))  # uvloop's is one in all but name
        if len(self.connections) + len(self._sockets.open) > self._bounds.connections_max:
            self.refuse(503, OverloadedError("connections", limit=self._bounds.connections_max))
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self._awaited is None and self.cycle.response_complete:
            self._awaited = "headers"  # the keep-alive timer of the base stops with the first byte of anything
        super().data_received(data)
        if self._awaited == "headers":
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES_MAX:
                self._refuse_headers()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._awaited = None
        self._watch()
        super().connection_lost(exc)
        self._lost.set()

    # ── what the parser calls ────────────────────────────────────────────────────────────────────────────────────────
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._awaited = "headers"
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        if _size_of(self.url, self.headers) > HEADER_BYTES_MAX:
            self._refuse_headers()
            return
        self._awaited = "body"
        self.server_state.default_headers = _standing_headers()
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and self.scope["method"] != "HEAD":  # there no body follows
            cycle.transport = cast(asyncio.Transport, Corked(self.transport))

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        self._awaited = None
        super().on_message_complete()

    # ── WebSocket ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _should_upgrade_to_ws(self) -> bool:
        return True

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to a WebSocket, or refuse it."""
        lines = [b"GET %b HTTP/1.1" % self.url, *(b"%b: %b" % header for header in self.headers), b"", b""]
        try:
            connection = self._sockets.upgrade(self.transport, b"\r\n".join(lines))
        except KSIError as error:
            self.refuse(status_of(type(error)), error)
            return
        self._awaited = None
        self.connections.discard(self)
        self.transport.set_protocol(connection)

    # ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def send_400_response(self, msg: str) -> None:
        self.refuse(400, InvalidFrameError("no HTTP request"))

    def _refuse_headers(self) -> None:
        self.refuse(431, PayloadTooLargeError("headers", size=None, limit=HEADER_BYTES_MAX))

    def refuse(self, status: int, error: KSIError) -> None:
        """Answer what is no whole request, and close."""
        self._awaited = None
        self._is_refused = True
        self._watch()
        self._give_up()
        self.transport.write(raw_problem(status, error))
        if status != 503 and self.transport.can_write_eof():
            # To close on what is still unread would reset the connection, and the answer with it.
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.abort)
        else:
            self.transport.close()

    async def close(self) -> None:
        """Close once all is written; returns when it is."""
        self.transport.close()
        await self._lost.wait()

    def narrow(self) -> None:
        """Hold nothing of what the client does not read, and watch how far it is behind."""
        self.transport.set_write_buffer_limits(high=0)
        self._ahead = Ahead(self.transport.get_extra_info("socket"))

    async def taken(self) -> None:
        """Return when the system has taken all that was written, or the connection is gone."""
        await self.flow.drain()

    def ahead(self) -> int:
        """Bytes that were written and that the client has not read, as far as one can know."""
        if self._ahead is None or self.transport.is_closing():
            return 0
        return self._ahead.bytes() + self.transport.get_write_buffer_size()

    def room(self) -> int | None:
        """Bytes that the client's system offers to take; None: it has not confirmed all that it took."""
        return None if self._ahead is None or self.transport.is_closing() else self._ahead.room()

    def abort(self) -> None:
        """Close now; what is not written is lost."""
        self._give_up()
        self.transport.abort()

    def _give_up(self) -> None:
        """Nobody answers the request under way any more."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _watch(self) -> None:
        """Keep the timer of what is awaited: none where a request came in one piece."""
        if self._awaited == self._timed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = self._awaited
        if self._timed is not None:
            limit = self._bounds.header_timeout if self._timed == "headers" else self._bounds.body_timeout
            self._timer = self.loop.call_later(limit, self._late)

    def _late(self) -> None:
        self.refuse(408, LateRequestError(self._timed or "headers"))


def raw_problem(status: int, error: KSIError) -> bytes:
    """A whole answer, for where there is no exchange."""
    _, body, headers = problem(error, status)
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in (*headers, *STANDING)]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
    return b"\r\n".join(lines)


def _size_of(url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Of the head of a request, as it came, but for its first line's method and version."""
    return len(url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in headers)


def _standing_headers() -> list[tuple[bytes, bytes]]:
    global _standing
    now = int(time.time())
    if now != _standing[0]:
        _standing = now, [(b"date", formatdate(now, usegmt=True).encode()), *STANDING]
    return _standing[1]


_standing: tuple[int, list[tuple[bytes, bytes]]] = (0, [])
