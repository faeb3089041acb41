"""One process owns a log: a lock file beside it, which the kernel releases when the process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from ksi.core.errors import LogLockedError, UnavailableError
from ksi.core.home import said_of_disk

_SIGNED = re.compile(r"pid (\d+),")


def lock_of(log: Path) -> Path:
    """The lock file of the log at ``log``."""
    return log.with_name(log.name + "-lock")


def holder_of(path: Path) -> int | None:
    """The process that has the lock file ``path`` open and signed it; None: nobody holds the lock.

    Nothing is locked for that, not for a moment: a daemon that starts just then would find the lock taken.
    """
    with suppress(OSError):
        signed = _SIGNED.match(path.read_text())
        if signed and any(_is_same(path, each) for each in Path("/proc", signed[1], "fd").iterdir()):
            return int(signed[1])
    return None


def _is_same(path: Path, descriptor: Path) -> bool:
    try:
        return path.samefile(descriptor)
    except OSError:  # it was closed meanwhile
        return False


class LockFile:
    """Held from construction to :meth:`release`. The file says who holds it: pid and time of start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._holder()
            self._file.close()
            raise LogLockedError(str(path), holder) from None
        try:
            self._sign()
        except OSError as error:
            self.release()
            raise UnavailableError("the log", f"{path}: {error.strerror}{said_of_disk(path)}") from error

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read().decode(errors="replace").strip() or "another process"

    def _sign(self) -> None:
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}, since {started}\n".encode())

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        self._file.close()
