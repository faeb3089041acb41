"""The keeper: a process that runs one command, confined, and ends with it and with all that it started.

It adopts what the command leaves behind (a *subreaper*), so nothing of it gets away by forking twice, and kills all of
it at the end: when the command has ended, on SIGTERM, and when the daemon is gone. Then it ends as the command did. Its
environment is the command's, and it has nothing of the daemon's: no descriptor, no secret.

Nothing but the standard library, so that it is there within a moment: it runs before each command.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from ksi.plugins.sandbox.confine import confine, prctl
from ksi.plugins.sandbox.connects import answer_connect

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOT_RUN, NOT_FOUND = 126, 127
Order = dict[str, Any]
"""``parent`` (pid), ``directory``, ``readable``, ``network``, ``confined``, ``socket``, ``limits`` by the names of
:mod:`resource`, ``processes_max``."""


def main() -> NoReturn:
    """``ORDER COMMAND…``, the order as JSON."""
    order: Order = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _give_up)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != order["parent"]:
        os._exit(NOT_RUN)
    order["limits"]["NPROC"] = order["processes_max"] + _threads_of_user()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ours.close()
        _become(order, sys.argv[2:], theirs)
    theirs.close()
    listener = _received(ours)
    for descriptor in (0, 1, 2):  # they close with the last of the command's processes, not with this one
        os.close(descriptor)
    status = _kept(child, listener, os.fsencode(order["socket"]))
    kill_all()
    _end_as(status)


# ── the command's side ───────────────────────────────────────────────────────────────────────────────────────────────
def _become(order: Order, command: list[str], keeper: socket.socket) -> NoReturn:
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for name, value in order["limits"].items():
            _limit(getattr(resource, f"RLIMIT_{name}"), value)
        os.chdir(order["directory"])
        if order["confined"]:
            listener = confine(order["directory"], order["readable"], network=order["network"])
            socket.send_fds(keeper, [b"!"], [] if listener is None else [listener])
            if listener is not None:
                os.close(listener)  # whoever held it could answer itself
        keeper.close()
        os.execvp(command[0], command)  # noqa: S606  # that is what this is for
    except FileNotFoundError:
        _say(f"{command[0]}: not found", NOT_FOUND)
    except OSError as error:
        _say(f"{command[0]}: {error.strerror}", NOT_RUN)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _say(what: str, code: int) -> NoReturn:
    os.write(2, f"{what}\n".encode())
    os._exit(code)


# ── the keeper's side ────────────────────────────────────────────────────────────────────────────────────────────────
def _received(command: socket.socket) -> int | None:
    """The descriptor through which it asks for connections; None where it needs no leave, or ended before."""
    with command:
        descriptors = socket.recv_fds(command, 1, 1)[1]
    return descriptors[0] if descriptors else None


def _kept(child: int, listener: int | None, path: bytes) -> int:
    """How the command ended. Meanwhile connections are made for it."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    if listener is not None:
        poll.register(listener, select.POLLIN)
    while ended not in (ready := dict(poll.poll())):
        if listener is not None and ready[listener] & select.POLLIN:
            answer_connect(listener, path)
        elif listener is not None:
            poll.unregister(listener)  # nobody is left who could ask
    return os.waitpid(child, 0)[1]


def _give_up(_signal: int, _frame: FrameType | None) -> NoReturn:
    kill_all()
    os._exit(128 + signal.SIGTERM)


def kill_all() -> None:
    """Kill all that descends from this process. The children of a dead one become its own: until none is left."""
    while True:
        for child in _children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    return [pid for pid, found in _processes() if found[1] == str(os.getpid()).encode()]


def _threads_of_user() -> int:
    """The system's limit counts all that the user runs."""
    mine = os.getuid()
    return sum(int(found[17]) for pid, found in _processes() if _owner(pid) == mine)


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    """Pids, with what ``/proc/PID/stat`` says behind the name: state, parent and more."""
    for entry in os.listdir("/proc"):  # noqa: PTH208  # pathlib would be half of the keeper's start
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                yield int(entry), _read(f"/proc/{entry}/stat").rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  # as above
        return file.read()


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116  # as above
    except FileNotFoundError:
        return -1


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
