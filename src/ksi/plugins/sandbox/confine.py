"""The kernel confines a process, before the first instruction of its program, and all that it starts.

- Landlock: it may write below its directory, read what a program needs to run, and reach no other file; nor send
  signals to, or look into, a process that is not its own.
- A filter of system calls: no network. It may connect to a Unix socket only where its keeper says so, for Landlock does
  not bind that: on a desktop the way out would be the session's bus.
- No new rights: setuid programs give none.

Imported by the keeper, so nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Any

# linux/landlock.h, asm-generic/unistd.h, linux/prctl.h, linux/seccomp.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, IO_URING = 444, 445, 446, 425
VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_BLOCK, TRUNCATE, IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
VERSION_MIN, VERSION_IOCTL, VERSION_FULL = 3, 5, 6
"""Before 3 files could be cut off anywhere; from 6 on it also binds signals, and sockets without a file."""
SCOPES = 1 | 2
PR_SET_NO_NEW_PRIVS, MODE_FILTER, NEW_LISTENER = 38, 1, 1 << 3
ALLOW, ASK, REFUSE = 0x7FFF0000, 0x7FC00000, 0x00050000 | 1
AF_UNIX, SOCK_STREAM, KIND_OF_SOCKET = 1, 1, 0xF
X32 = 0x40000000
CALLS = {"x86_64": (0xC000003E, 317, 41, 42), "aarch64": (0xC00000B7, 277, 198, 203)}
"""Architecture; numbers of ``seccomp``, ``socket`` and ``connect``."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """0 where this kernel has none, or where it is switched off."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, 0, VERSION)))


def confinement() -> str:
    """What a command can be confined to here: ``full``, ``partial`` (it can send signals to others), ``none``."""
    if os.uname().machine not in CALLS or (version := landlock_version()) < VERSION_MIN:
        return "none"
    return "full" if version >= VERSION_FULL else "partial"


def confine(directory: str, readable: Sequence[str], *, network: bool) -> int | None:
    """From here on this process reaches nothing but that. Raises OSError where the system can not do it.

    Returns:
        A descriptor for the keeper, which is asked through it for each connection; None with the network, which nobody
        is asked for.
    """
    version = landlock_version()
    every = (IOCTL_DEV << 1) - 1 if version >= VERSION_IOCTL else IOCTL_DEV - 1
    attributes = struct.pack("QQQ", every, 0, SCOPES if version >= VERSION_FULL else 0)
    rules = checked(libc.syscall(CREATE_RULESET, attributes, len(attributes) if version >= VERSION_FULL else 8, 0))
    _allow(rules, directory, every & ~(MAKE_CHAR | MAKE_BLOCK))
    for path in readable:
        _allow(rules, path, EXECUTE | READ_FILE | READ_DIR)
    for path in DEVICES:
        _allow(rules, path, (READ_FILE | WRITE_FILE | IOCTL_DEV) & every)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    checked(libc.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)
    return None if network else _filter()


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # not every system has all of them
    try:
        if not os.path.isdir(path):  # noqa: PTH112  # pathlib would be half of the keeper's start
            rights &= OF_A_FILE
        checked(libc.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("<Qi", rights, there), 0))
    finally:
        os.close(there)


def _filter() -> int:
    """Sockets are streams to files, and the keeper is asked for each connect.

    What could make or connect one past it is refused: ``io_uring``, and the numbers of another ABI.
    """
    architecture, seccomp, socket, connect = CALLS[os.uname().machine]
    steps = [
        (0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, REFUSE),
        (0x20, 0, 0, 0), (0x35, 0, 1, X32), (0x06, 0, 0, REFUSE),
        (0x15, 0, 1, IO_URING), (0x06, 0, 0, REFUSE),
        (0x15, 0, 1, connect), (0x06, 0, 0, ASK),
        (0x15, 1, 0, socket), (0x06, 0, 0, ALLOW),
        (0x20, 0, 0, 16), (0x15, 1, 0, AF_UNIX), (0x06, 0, 0, REFUSE),
        (0x20, 0, 0, 24), (0x54, 0, 0, KIND_OF_SOCKET), (0x15, 1, 0, SOCK_STREAM), (0x06, 0, 0, REFUSE),
        (0x06, 0, 0, ALLOW),
    ]  # fmt: skip
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held))
    return checked(libc.syscall(seccomp, MODE_FILTER, NEW_LISTENER, header))


def prctl(option: int, argument: int) -> None:
    """Raises OSError."""
    checked(libc.prctl(option, argument, 0, 0, 0))


def checked(answer: Any) -> int:
    """The answer of a system call. Raises OSError where it failed."""
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(answer)
