"""WebSocket: the frames of the Unix socket, one a message. Only this module needs ``websockets``: its protocol."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI, parse_uri

from ksi.client.link import FrameLink, Listener
from ksi.core.errors import KSIConnectionError, UnauthorizedError
from ksi.wire.answers import FRAME_OVERHEAD
from ksi.wire.frames import Request
from ksi.wire.splitter import FRAME_BYTES_MAX

HANDSHAKE_TIMEOUT = 10.0
SILENCE_MAX = 50.0
"""Seconds without a sign of life, after which a peer is gone: the daemon pings each 20 s."""
_silent = logging.getLogger("ksi.client.websocket")
_silent.setLevel(logging.ERROR)  # below that it writes what is in the frames: tokens, and what people say
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class WebSocketEndpoint:
    """``ws://…/v1/ws``, or ``wss://…``."""

    def __init__(self, url: str, *, name: str | None, token: str | None) -> None:
        self._url = url
        self._uri = parse_uri(url)
        self._name = name
        self._token = token
        self._tls = ssl.create_default_context() if self._uri.secure else None

    def __str__(self) -> str:
        return self._url

    async def connect(self, listener: Listener) -> WebSocketLink:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                _, link = await loop.create_connection(
                    lambda: WebSocketLink(listener, self._uri, self._token),
                    self._uri.host,
                    self._uri.port,
                    ssl=self._tls,
                )
                await link.is_open
        except (OSError, TimeoutError) as error:
            raise KSIConnectionError(f"no daemon answers at {self}: {error or 'no handshake in time'}") from None
        if self._name is not None:
            link.send(Request(hello=1, client=self._name, token=self._token))
        return link


class WebSocketLink(FrameLink):
    """A connection from its handshake on."""

    def __init__(self, listener: Listener, uri: WebSocketURI, token: str | None) -> None:
        super().__init__(listener)
        self._wire = ClientProtocol(uri, max_size=FRAME_BYTES_MAX + FRAME_OVERHEAD, logger=_silent)
        self._token = token
        self._fragments: list[bytes] = []
        self._is_heard = True
        self._watch: asyncio.TimerHandle | None = None
        self.is_open: asyncio.Future[None] = self._loop.create_future()
        """Fails with KSIConnectionError or UnauthorizedError where the handshake does."""

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────────────────────────
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        handshake = self._wire.connect()
        if self._token is not None:
            handshake.headers["Authorization"] = f"Bearer {self._token}"
        self._wire.send_request(handshake)
        self._flush_wire()
        self._watch = self._loop.call_later(SILENCE_MAX, self._look)

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        self._wire.receive_data(data)
        for message in self._messages():
            if not self._frame(message):
                return
        self._flush_wire()

    def eof_received(self) -> None:
        self._wire.receive_eof()
        self._shake_hands()

    def connection_lost(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if not self.is_open.done():
            self.is_open.set_exception(KSIConnectionError("the connection was lost during the handshake"))
            self.is_open.exception()  # who waited for it may be gone
        super().connection_lost(error)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _messages(self) -> Iterator[bytes]:
        """The messages that are complete."""
        for event in self._wire.events_received():
            if isinstance(event, Response):
                self._shake_hands()
            elif isinstance(event, Frame) and event.opcode in _DATA:
                self._fragments.append(bytes(event.data))
                if event.fin:
                    yield b"".join(self._fragments)
                    self._fragments.clear()

    def _shake_hands(self) -> None:
        """The answer to the handshake is here."""
        refusal = self._wire.handshake_exc
        if self.is_open.done():
            return
        if self._wire.state is State.OPEN:
            self.is_open.set_result(None)
        elif refusal is not None:
            self.is_open.set_exception(_explained(refusal))
            self.abort()

    def _write(self, frames: list[bytes]) -> None:
        if self._wire.state is not State.OPEN:
            return
        for frame in frames:
            self._wire.send_text(frame.removesuffix(b"\n"))
        self._flush_wire()

    def _flush_wire(self) -> None:
        if self._transport is None:
            return
        for data in self._wire.data_to_send():
            if data:
                self._transport.write(data)
            else:  # the protocol's sign for the end
                self._transport.close()

    def close(self) -> None:
        self._flush()
        if self._wire.state is State.OPEN:
            self._wire.send_close()
            self._flush_wire()
        if self._transport is not None:
            self._transport.close()

    def _look(self) -> None:
        if not self._is_heard:
            self.abort()
            return
        self._is_heard = False
        self._watch = self._loop.call_later(SILENCE_MAX, self._look)


def _explained(refusal: Exception) -> KSIConnectionError | UnauthorizedError:
    if isinstance(refusal, InvalidStatus) and refusal.response.status_code == 401:
        return UnauthorizedError("the token does not count here")
    return KSIConnectionError(f"no WebSocket there: {refusal}")
