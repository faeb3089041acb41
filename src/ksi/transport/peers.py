"""Who is at the other end of a Unix socket, as the system knows it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

from ksi.transport.tokens import USER

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_LOOKS = 3
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
        """Whether ``ancestor`` started it, or who started it; also where nobody can tell.

        Nobody can tell of one that has ended since it connected, and left the connection to a child. A process that
        left its family is no longer known.
        """
        if self.pid == 0:
            return False
        for _ in range(_LOOKS):
            family = _family_of(self.pid)
            if family is not None:
                return ancestor in family
        return True


def peer_of(connected: socket.socket) -> Peer:
    """Who was there when it connected."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return Peer(pid, uid)


def _family_of(pid: int) -> set[int] | None:
    """Pids of its parent and of all above; None where one of them ended while we looked."""
    family: set[int] = set()
    while pid:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_PARENT])
        except (FileNotFoundError, ProcessLookupError):
            return None
        family.add(pid)
    return family
