"""A filter of system calls for this process: what could act on the world outside is trapped, by SIGSYS.

A classic BPF program, made here and installed through ``prctl``; Linux on x86_64 and aarch64. It binds native code
too, which no audit hook sees. The numbers are those of the kernel's ABI and never change.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h, linux/sched.h
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, TRAP, ERRNO = 0x7FFF0000, 0x00030000, 0x00050000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENT_AT = 0, 4, 16
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, THREADS_TOO = 38, 1, 1
ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"
AF_NETLINK, AF_PACKET = 16, 17
CLONE_THREAD = 0x00010000
X32 = 0x40000000
EPERM, ENOSYS = 1, 38
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Machine(msgspec.Struct, frozen=True):
    """Numbers of the calls that are looked at.

    ``openings`` has the place of the flags among the arguments; ``unseen`` take what they do in memory, which a filter
    can not read: they are said not to exist, and callers fall back to the older ones.
    """

    architecture: int
    seccomp: int
    clone: int
    tgkill: int
    socket: int
    sendto: int
    openings: Mapping[int, int]
    unseen: Sequence[int]
    refused: Sequence[int]


CLONE3, OPENAT2 = 435, 437
# In this order on both: connect bind listen accept accept4 sendmsg sendmmsg · execve execveat · ptrace
# process_vm_writev kill tkill rt_sigqueueinfo rt_tgsigqueueinfo · truncate ftruncate · renameat renameat2 mkdirat
# linkat unlinkat symlinkat mknodat · fchmod fchmodat fchown fchownat utimensat · set and remove (l, f) xattr · mount
# umount2 chroot unshare setns bpf mq_open msgget shmget · open_by_handle_at reboot sethostname init_module finit_module
# delete_module kexec_load swapon swapoff settimeofday clock_settime add_key keyctl
_X86_64 = (
    42, 49, 50, 43, 288, 46, 307, 59, 322, 101, 311, 62, 200, 129, 297, 76, 77, 264, 316, 258, 265, 263, 266, 259,
    91, 268, 93, 260, 280, 188, 189, 190, 197, 198, 199, 165, 166, 161, 272, 308, 321, 240, 68, 29,
    304, 169, 170, 175, 313, 176, 246, 167, 168, 164, 227, 248, 250,
)  # fmt: skip
_AARCH64 = (
    203, 200, 201, 202, 242, 211, 269, 221, 281, 117, 271, 129, 130, 138, 240, 45, 46, 38, 276, 34, 37, 35, 36, 33,
    52, 53, 55, 54, 88, 5, 6, 7, 14, 15, 16, 40, 39, 51, 97, 268, 280, 180, 186, 194,
    265, 142, 161, 105, 273, 106, 104, 224, 225, 170, 112, 217, 219,
)  # fmt: skip
# Only x86_64 has these: fork vfork creat rename mkdir rmdir link unlink symlink chmod chown lchown mknod utime utimes
# futimesat
_OLD_X86_64 = (57, 58, 85, 82, 83, 84, 86, 87, 88, 90, 92, 94, 133, 132, 235, 261)
# The same everywhere: pidfd_send_signal io_uring_setup open_tree move_mount fsopen fsconfig fsmount fspick pidfd_getfd
# fchmodat2
_NEW = (424, 425, 428, 429, 430, 431, 432, 433, 438, 452)
MACHINES = {
    "x86_64": Machine(
        0xC000003E, 317, 56, 234, 41, 44, {2: 1, 257: 2}, (CLONE3, OPENAT2), _X86_64 + _OLD_X86_64 + _NEW
    ),
    "aarch64": Machine(0xC00000B7, 277, 220, 131, 198, 206, {56: 2}, (CLONE3, OPENAT2), _AARCH64 + _NEW),
}

Instruction = tuple[int, int, int, int]
"""Code, steps to skip where it holds, where not, operand."""


def is_here() -> bool:
    """Whether this system has such filters, and we know its numbers."""
    return (
        sys.platform == "linux" and sys.maxsize > 1 << 32 and platform.machine() in MACHINES and Path(ACTIONS).exists()
    )


def install() -> bool:
    """Bind this process, all of its threads, and for ever. False: it can not be."""
    if not is_here():
        return False
    machine = MACHINES[platform.machine()]
    program = pack(filter_of(machine, os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not libc.syscall(machine.seccomp, SET_MODE_FILTER, THREADS_TOO, ctypes.c_char_p(header))


def filter_of(machine: Machine, pid: int) -> list[Instruction]:
    """The program for the process ``pid``."""
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 1, 0, machine.architecture),
        _answer(ERRNO | EPERM),  # another ABI has other numbers
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_AT_LEAST, 0, 1, X32),
        _answer(TRAP),
        *_where(machine.clone, [_argument(0), (JUMP_ANY_BIT, 1, 0, CLONE_THREAD), _answer(TRAP), _answer(ALLOW)]),
        # Who writes to one of these talks to the kernel, or to the wire, and needs no connection for it.
        *_where(
            machine.socket,
            [
                _argument(0),
                (JUMP_EQUAL, 2, 0, AF_NETLINK),
                (JUMP_EQUAL, 1, 0, AF_PACKET),
                _answer(ALLOW),
                _answer(TRAP),
            ],
        ),
        # Without an address it goes to where the socket leads already: a loop wakes itself so.
        *_where(
            machine.sendto,
            [
                _argument(4),
                (JUMP_EQUAL, 0, 3, 0),
                _upper(4),
                (JUMP_EQUAL, 0, 1, 0),
                _answer(ALLOW),
                _answer(TRAP),
            ],
        ),
        *_where(machine.tgkill, [_argument(0), (JUMP_EQUAL, 1, 0, pid), _answer(TRAP), _answer(ALLOW)]),
    ]
    for number, place in machine.openings.items():
        steps += _where(number, [_argument(place), (JUMP_ANY_BIT, 0, 1, WRITES), _answer(TRAP), _answer(ALLOW)])
    for number in machine.unseen:
        steps += _where(number, [_answer(ERRNO | ENOSYS)])
    for number in machine.refused:
        steps += _where(number, [_answer(TRAP)])
    return [*steps, _answer(ALLOW)]


def _where(number: int, steps: Sequence[Instruction]) -> list[Instruction]:
    """``steps``, which end with an answer, for the call ``number``."""
    return [(JUMP_EQUAL, 0, len(steps), number), *steps]


def _argument(place: int) -> Instruction:
    """Load the lower half of an argument: most that are looked at are ints."""
    return LOAD, 0, 0, ARGUMENT_AT + 8 * place


def _upper(place: int) -> Instruction:
    return LOAD, 0, 0, ARGUMENT_AT + 8 * place + 4


def _answer(answer: int) -> Instruction:
    return RETURN, 0, 0, answer


def pack(program: Sequence[Instruction]) -> bytes:
    """As ``struct sock_filter`` has it."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
