"""The pace of a reader that can not say what it is ready for, as ``curl`` or an ``EventSource``.

How far it has read is seen all the same: it has not read what its system did not confirm, and what its program leaves
lying narrows the room that its system offers. Elsewhere than on Linux only the first half is known. What was said last
may be out of date, so a reader that seems to be behind is asked again, by a heartbeat. A system may also offer less
room for reasons of its own: so one that seems to be behind for long is sent more heartbeats than there is room for.
Whoever has confirmed them all reads.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from typing import Protocol

AHEAD_BYTES = 1 << 10
"""What may be written and not be known to be read: some ten tokens."""
PAUSES = (0.0, 0.0, 0.0, 0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125)
"""Seconds between looks at a reader that is behind."""
PAUSE_MAX = 0.25
"""The same from then on."""
ASKING_FROM = 0.004
"""A pause as long as this ends with a heartbeat: what was said last is out of date."""
DOUBTING_FROM = 0.064
"""A pause as long as this ends with more of them than fit."""
PROOF_BYTES_MAX = 1 << 18
"""As many as that: a system with room for more may take them though nobody reads, some times."""
_ROOM = struct.Struct("@I")
_ROOM_OFFSET = 228
"""Of ``tcpi_snd_wnd`` in Linux' ``tcp_info``, since 5.4."""
_INFO_BYTES = _ROOM_OFFSET + _ROOM.size
_INFO = getattr(socket, "TCP_INFO", None)


class Connected(Protocol):
    """A socket, of the system or of uvloop."""

    family: int

    def fileno(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


class Paced(Protocol):
    """A way to a client."""

    def ahead(self) -> int:
        """Bytes that were written and that it has not read, as far as one can know."""

    def room(self) -> int | None:
        """Bytes that its system offers to take; None: it has not confirmed all that it took. Who takes more reads."""

    async def write(self, body: bytes) -> None: ...
    async def taken(self) -> None:
        """Return when the system has taken all that was written."""


class Ahead:
    """How far a socket is ahead of its reader."""

    def __init__(self, opened: Connected) -> None:
        self._socket = opened
        self._widest = self._room = 0
        self._is_doubted = False

    def bytes(self) -> int:
        """What was written and is not read, as far as one can know."""
        try:
            unconfirmed, missing = self._unconfirmed(), self._missing_room()
        except OSError:  # it is closed
            return 0
        if self._is_doubted and not unconfirmed:
            self._is_doubted, self._widest, missing = False, self._room, 0
        return unconfirmed + 2 * missing  # twice: half of a room is for bookkeeping

    def room(self) -> int | None:
        """See :meth:`Paced.room`. It is asked before so much is written, and more."""
        try:
            if self._is_doubted or self._unconfirmed():
                return None
        except OSError:  # it is closed
            return None
        self._is_doubted = True
        return self._room

    def _unconfirmed(self) -> int:
        answer: bytes = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("@i", answer)[0])

    def _missing_room(self) -> int:
        if _INFO is None or self._socket.family == socket.AF_UNIX:
            return 0
        told = self._socket.getsockopt(socket.IPPROTO_TCP, _INFO, _INFO_BYTES)
        if len(told) < _INFO_BYTES:
            return 0
        room: int = _ROOM.unpack_from(told, _ROOM_OFFSET)[0]
        self._room, self._widest = room, max(self._widest, room)
        return self._widest - room


async def keep_pace(client: Paced, heartbeat: bytes, is_over: Callable[[], bool]) -> None:
    """Return when ``client`` has read nearly all, or ``is_over`` says that no more will be made for it."""
    await client.taken()
    for pause in _pauses():
        if client.ahead() <= AHEAD_BYTES or is_over():
            return
        await asyncio.sleep(pause)
        if pause >= DOUBTING_FROM and (room := client.room()) is not None:
            await client.write(heartbeat * (min(room, PROOF_BYTES_MAX) // len(heartbeat) + 1))
        elif pause >= ASKING_FROM:
            await client.write(heartbeat)


def _pauses() -> Iterable[float]:
    return itertools.chain(PAUSES, itertools.repeat(PAUSE_MAX))
