"""The keeper connects for its command: to the daemon's socket, and to nothing else.

The kernel stops the command in ``connect`` and tells the keeper. The keeper takes a copy of the socket and connects it
itself, to the one path that it knows: so it does not matter what the command writes over the address meanwhile, and the
daemon sees a child of its own at the other end.

Imported by the keeper, so nothing but the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from ksi.plugins.sandbox.confine import checked, libc

# linux/seccomp.h
RECEIVE, SEND = 0xC0502100, 0xC0182101
_NOTICE = struct.Struct("QIIiIQ6Q")  # id, pid, flags · number, architecture, place, arguments
_ANSWER = struct.Struct("QqiI")  # id, value, error, flags
_PIDFD_GETFD = 438
_FAMILY = struct.Struct("H")
ADDRESS_BYTES_MAX = 110


def answer_connect(listener: int, path: bytes) -> None:
    """Answer one command that asks for a connection; ``path`` is the only one that it gets."""
    notice = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, RECEIVE, notice)
        asked, pid, _, _, _, _, descriptor, place, size, *_ = _NOTICE.unpack(notice)
        fcntl.ioctl(listener, SEND, _ANSWER.pack(asked, 0, -_connect(pid, descriptor, place, size, path), 0))
    except FileNotFoundError:  # it ended meanwhile
        return


def _connect(pid: int, descriptor: int, place: int, size: int, path: bytes) -> int:
    """0, or the number of the error."""
    try:
        if _address(pid, place, min(size, ADDRESS_BYTES_MAX)) != path:
            return errno.EACCES
        process = os.pidfd_open(_process_of(pid))
        try:
            copied = checked(libc.syscall(_PIDFD_GETFD, process, descriptor, 0))
        finally:
            os.close(process)
        with socket.socket(fileno=copied) as connecting:
            connecting.connect(path)
    except OSError as error:
        return error.errno or errno.EACCES
    return 0


def _process_of(thread: int) -> int:
    """The kernel names the thread that asks; its descriptors are those of its process."""
    with open(f"/proc/{thread}/status", encoding="utf-8") as file:  # noqa: PTH123  # as in the keeper
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))


def _address(pid: int, place: int, size: int) -> bytes:
    """The path of a Unix socket's address; empty where it is none."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = os.pread(memory, size, place)
    finally:
        os.close(memory)
    if len(address) < _FAMILY.size or _FAMILY.unpack_from(address)[0] != socket.AF_UNIX:
        return b""
    return address[_FAMILY.size :].partition(b"\0")[0]
