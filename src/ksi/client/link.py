"""One connection to the daemon's socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ksi.core.errors import InvalidFrameError, KSIConnectionError, PayloadTooLargeError
from ksi.wire.answers import FRAME_OVERHEAD, Answer, decode
from ksi.wire.splitter import FRAME_BYTES_MAX, Splitter


class Link(asyncio.Protocol):
    """Writes what is sent in one turn of the loop at once; hands on each frame that comes."""

    def __init__(self, received: Callable[[Answer], None], lost: Callable[[Link], None]) -> None:
        self._received = received
        self._lost = lost
        self._splitter = Splitter(FRAME_BYTES_MAX + FRAME_OVERHEAD)
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, path: Path, received: Callable[[Answer], None], lost: Callable[[Link], None]) -> Link:
        """Connect.

        Raises:
            KSIConnectionError: Nobody answers at ``path``.
        """
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: cls(received, lost), os.fspath(path))
        except OSError as error:
            reason = error.strerror or str(error)
            raise KSIConnectionError(f"no daemon answers at {path}: {reason}; start it with: ksi start") from None
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            try:
                if not isinstance(line, bytes):
                    raise line
                answer = decode(line)
            except (InvalidFrameError, PayloadTooLargeError):
                self.abort()  # whose answer it was can not be known: all are asked for again on a new connection
                return
            self._received(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._lost(self)

    def send(self, frame: bytes) -> None:
        self._parts.append(frame)
        if len(self._parts) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what was sent, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if self._transport is not None and parts:
            self._transport.write(b"".join(parts))
