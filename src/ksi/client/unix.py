"""The daemon's Unix socket: a frame a line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ksi.client.link import FrameLink, Listener
from ksi.core.errors import KSIConnectionError
from ksi.wire.answers import FRAME_OVERHEAD
from ksi.wire.frames import Request
from ksi.wire.splitter import FRAME_BYTES_MAX, Splitter


class UnixEndpoint:
    """The socket ``path``, where we say who we are."""

    def __init__(self, path: Path, *, name: str | None, token: str | None) -> None:
        self._path = path
        self._name = name
        self._token = token

    def __str__(self) -> str:
        return str(self._path)

    async def connect(self, listener: Listener) -> UnixLink:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: UnixLink(listener), os.fspath(self._path))
        except OSError as error:
            reason = error.strerror or str(error)
            raise KSIConnectionError(f"no daemon answers at {self}: {reason}; start it with: ksi start") from None
        if self._name is not None or self._token is not None:
            link.send(Request(hello=1, client=self._name, token=self._token))
        return link


class UnixLink(FrameLink):
    """A connection to the socket."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._splitter = Splitter(FRAME_BYTES_MAX + FRAME_OVERHEAD)

    def data_received(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            if not self._frame(line):
                return

    def _write(self, frames: list[bytes]) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(frames))
