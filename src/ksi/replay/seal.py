"""The seal of a process: from here on it can not act on the world outside, and who tries is named.

Two layers. An audit hook refuses what Python code tries, with the frame at hand. Where the system has one, a filter of
system calls traps what native code does past the interpreter: the call does not happen, and the signal says in which
frame. Both hold until the process ends.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from ksi.core.errors import ReplayEscapeError
from ksi.replay import seccomp

FILES_MAX = 64
"""Descriptors at most. What a trapped call returns is no descriptor: the numbers of calls that open are higher."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REFUSED = frozenset(
    {
        "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname",
        "socket.sendmsg", "socket.sendto",
        "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
        "subprocess.Popen", "os.kill", "os.killpg",
        "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename",
        "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime",
    }
)  # fmt: skip


class Seal:
    """Closes this process.

    Args:
        owners: Plugins by the name of their class, by the root of its module (:func:`root_of`).
        current: The plugin whose handler runs, where the stack does not say.
    """

    def __init__(self, owners: Mapping[str, Mapping[str, str]], current: Callable[[], str]) -> None:
        self.attempts: list[ReplayEscapeError] = []
        self.is_native = False
        """Whether native code is bound too."""
        self._owners = owners
        self._current = current

    def close(self) -> None:
        """From here on; there is no way back."""
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
        signal.signal(signal.SIGSYS, self._trapped)
        sys.addaudithook(self._hook)
        self.is_native = seccomp.install()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED or (event == "open" and _writes(arguments)) or _is_database(event, arguments):
            raise self._note(f"{event} {_shown(arguments)}", sys._getframe(1))  # noqa: SLF001  # public in all but name

    def _trapped(self, signum: int, frame: FrameType | None) -> None:
        """The call did not happen, whatever its caller was given back."""
        raise self._note("a system call of native code that connects, runs a program, forks or writes a file", frame)

    def _note(self, action: str, frame: FrameType | None) -> ReplayEscapeError:
        escape = ReplayEscapeError(self._plugin(frame), action)
        self.attempts.append(escape)
        return escape

    def _plugin(self, frame: FrameType | None) -> str:
        """The innermost one on the stack; a trap in a thread is told to the main one, so all stacks are looked at."""
        stacks = [frame, *sys._current_frames().values()]  # noqa: SLF001  # as above
        owners = (self._owner(each) for stack in stacks for each in _frames(stack))
        return next(filter(None, owners), None) or self._current()

    def _owner(self, frame: FrameType) -> str | None:
        """The plugin whose code runs in ``frame``. A file may hold several: then its class says which, or who runs."""
        here = self._owners.get(root_of(frame.f_globals.get("__name__", "")), {})
        if len(here) == 1:
            return next(iter(here.values()))
        current = self._current()
        return here.get(frame.f_code.co_qualname.partition(".")[0]) or (current if current in here.values() else None)


def root_of(module: str) -> str:
    """What stands for all modules of one plugin: its package, or its file."""
    parts = module.split(".")
    return ".".join(
        parts[:3] if parts[:2] == ["ksi", "plugins"] else parts[:2] if parts[0] == "ksi_plugins" else parts[:1]
    )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether a file is opened to be written; one that is open already may be wrapped."""
    path, _, flags = arguments
    return not isinstance(path, int) and bool(flags & WRITES)


def _is_database(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "sqlite3.connect" and arguments[0] not in (":memory:", "")


def _shown(arguments: tuple[Any, ...]) -> str:
    return ", ".join(ascii(argument)[:100] for argument in arguments[:2])
