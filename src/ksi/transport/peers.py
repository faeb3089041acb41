"""Who is at the other end of a Unix socket, as the system knows it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

from ksi.transport.tokens import USER

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PARENT = 1
"""Place of the parent's pid in ``/proc/<pid>/stat``, behind the name in brackets, which may hold anything."""


class Peer(msgspec.Struct, frozen=True):
    """The process that connected. ``pid`` is 0 where it lives in a namespace that can not be seen from here."""

    pid: int
    uid: int

    @property
    def principal(self) -> str:
        return f"{USER}{self.uid}"

    def descends_from(self, ancestor: int) -> bool:
        """Whether ``ancestor`` started it, or who started it. A process that left its family is no longer known."""
        parent = _parent_of(self.pid)
        while parent > 1 and parent != ancestor:
            parent = _parent_of(parent)
        return parent == ancestor


def peer_of(connected: socket.socket) -> Peer:
    """Who was there when it connected."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return Peer(pid, uid)


def _parent_of(pid: int) -> int:
    """0 where there is none, or no such process any more."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_PARENT])
    except (FileNotFoundError, ProcessLookupError):
        return 0
