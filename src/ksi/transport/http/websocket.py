"""WebSocket at ``/v1/ws``: the frames of the Unix socket, one a message, behind the same connection.

What the connection writes goes straight to the transport: no task, no queue and no second encoding for each message.
Messages may hold several lines. Who has no ``Authorization`` header, as a browser, says ``hello`` with its token first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from ksi.core.errors import InvalidFrameError, KSIError, NotFoundError, UnauthorizedError
from ksi.transport.connection import Common, Connection
from ksi.transport.http.guard import Guard
from ksi.wire import answers, frames
from ksi.wire.frames import Kind

PATH = b"/v1/ws"
HELLO_TIMEOUT = 5.0
"""Seconds until the first frame has to be here, where no header had a token."""
PING_INTERVAL = 20.0
"""Seconds between pings; a peer from which nothing came since the last one is gone."""
_silent = logging.getLogger("ksi.http.websocket")
_silent.setLevel(logging.ERROR)  # below that it writes what is in the frames: tokens, and what people say
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class WebSockets:
    """The WebSocket connections of one server."""

    def __init__(self, common: Common, guard: Guard) -> None:
        self.open: set[WebSocketConnection] = set()
        self._common = common
        self._guard = guard
        self._drained = asyncio.Event()

    def upgrade(self, transport: asyncio.Transport, handshake: bytes) -> WebSocketConnection:
        """Answer a handshake that came over HTTP; from now on the connection is a WebSocket.

        Raises:
            KSIError: It is refused, and nothing was written.
        """
        wire = ServerProtocol(max_size=self._common.limits.frame_bytes_max, logger=_silent)
        wire.receive_data(handshake)
        request = next((event for event in wire.events_received() if isinstance(event, Request)), None)
        if request is None:
            raise InvalidFrameError("no WebSocket handshake")
        token = self._admitted(request)
        response = wire.accept(request)
        if response.status_code != 101:
            raise InvalidFrameError(f"no WebSocket handshake: {_said(response)}")
        wire.send_response(response)
        connection = WebSocketConnection(self, wire, transport)
        self.open.add(connection)
        connection.begin(token)
        return connection

    def _admitted(self, request: Request) -> str | None:
        """The token, where the headers have one."""
        if request.path.partition("?")[0].encode() != PATH:
            raise NotFoundError("page", request.path)
        headers = {name.lower().encode(): value.encode("latin-1") for name, value in request.headers.raw_items()}
        self._guard.refuse_foreign(headers)
        token = self._guard.token_of(headers)
        return None if token is None else self.proved(token)

    def connect(self, token: str) -> Connection:
        """A connection of who has ``token``, without a transport yet."""
        return Connection(self._common, lambda _: self._guard.principal_of(token), token, source="websocket")

    def proved(self, token: str | None) -> str:
        """``token``, if it counts. Raises UnauthorizedError."""
        self._guard.principal_of(token)
        return token or ""

    def leave(self, connection: WebSocketConnection) -> None:
        self.open.discard(connection)
        if not self.open:
            self._drained.set()

    async def close(self, grace: float) -> None:
        """Answer what is in flight, write all, close; after ``grace`` seconds the rest is cut off."""
        for connection in list(self.open):
            connection.finish()
        await self._emptied(grace)
        for connection in list(self.open):
            connection.abort()
        await self._emptied(1.0)

    async def _emptied(self, grace: float) -> None:
        if not self.open:
            return
        self._drained.clear()
        try:
            await asyncio.wait_for(self._drained.wait(), grace)
        except TimeoutError:
            return


class WebSocketConnection(asyncio.Protocol):
    """One client: messages become lines for a :class:`~ksi.transport.connection.Connection`, and its lines messages."""

    def __init__(self, sockets: WebSockets, wire: ServerProtocol, transport: asyncio.Transport) -> None:
        self._sockets = sockets
        self._wire = wire
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._inner: Connection | None = None
        self._fragments: list[bytes] = []
        self._is_heard = True
        self._timer: asyncio.TimerHandle | None = None
        self.is_reading = True

    def begin(self, token: str | None) -> None:
        """Accept the handshake."""
        self._flush_wire()
        if token is None:
            self._timer = self._loop.call_later(HELLO_TIMEOUT, self._refuse, UnauthorizedError("no hello with a token"))
        else:
            self._enter(token)

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────────────────────────
    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        self._wire.receive_data(data)
        lines = b"".join(self._lines())
        if self._inner is None and lines:
            lines = self._greeted(lines)
        if self._inner is not None and lines:
            self._inner.data_received(lines)
        self._flush_wire()

    def eof_received(self) -> None:
        self._wire.receive_eof()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._sockets.leave(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _lines(self) -> Iterator[bytes]:
        """The messages that are complete, each as a line."""
        for event in self._wire.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._fragments.append(bytes(event.data))
                if event.fin:
                    yield b"".join(self._fragments)
                    yield b"\n"
                    self._fragments.clear()

    def _flush_wire(self) -> None:
        """Write what the protocol itself has to say: handshake, pongs, close."""
        for data in self._wire.data_to_send():
            if data:
                self._transport.write(data)
            else:  # the protocol's sign for the end
                self._transport.close()

    def write(self, data: bytes) -> None:
        """Write lines, each as a message."""
        if self._wire.state is State.OPEN:
            self._transport.write(b"".join(map(_message, data.removesuffix(b"\n").split(b"\n"))))

    # ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _greeted(self, lines: bytes) -> bytes:
        """Let in who says hello with a token; the answer is what the connection has to serve."""
        try:
            frame = frames.decode(lines.partition(b"\n")[0])
            if frame.kind is not Kind.HELLO:
                raise UnauthorizedError("the first frame is hello, with the token")
            token = self._sockets.proved(frame.token)
        except KSIError as error:
            self._refuse(error)
            return b""
        self._stop_timer()
        self._enter(token)
        return lines

    def _enter(self, token: str) -> None:
        self._inner = self._sockets.connect(token)
        self._inner.connection_made(cast(asyncio.Transport, MessageTransport(self, self._transport)))
        self._timer = self._loop.call_later(PING_INTERVAL, self._beat)

    def _refuse(self, error: KSIError) -> None:
        self.write(answers.failure(None, error))
        self.close(CloseCode.POLICY_VIOLATION, error.code)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def finish(self) -> None:
        """Close once all is answered and written."""
        if self._inner is None:
            self.close(CloseCode.GOING_AWAY)
        else:
            self._inner.finish()

    def close(self, code: CloseCode = CloseCode.GOING_AWAY, reason: str = "") -> None:
        """Say that it ends, and end."""
        self._stop_timer()
        if self._wire.state is State.OPEN:
            self._wire.send_close(code, reason)
            self._flush_wire()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _beat(self) -> None:
        if not self._is_heard and self.is_reading:
            self._transport.abort()
            return
        self._is_heard = False
        if self._wire.state is State.OPEN:
            self._wire.send_ping(b"")
            self._flush_wire()
        self._timer = self._loop.call_later(PING_INTERVAL, self._beat)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class MessageTransport:
    """What a :class:`~ksi.transport.connection.Connection` takes for its transport."""

    def __init__(self, socket: WebSocketConnection, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self.write = socket.write
        self.close = socket.close
        self.abort = transport.abort
        self.is_closing = transport.is_closing
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.set_write_buffer_limits = transport.set_write_buffer_limits

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._socket.is_reading = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._socket.is_reading = True
        self._transport.resume_reading()


def _message(line: bytes) -> bytes:
    """A whole text message, as a server sends it."""
    size = len(line)
    if size < 126:
        return b"\x81%c%b" % (size, line)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), line)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), line)


def _said(response: Response) -> str:
    return bytes(response.body or b"").decode(errors="replace").strip()
