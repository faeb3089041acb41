"""One process owns a log: a lock file beside it, which the kernel releases when the process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from ksi.core.errors import LogLockedError


class LockFile:
    """Held from construction to :meth:`release`. The file says who holds it: pid and time of start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._holder()
            self._file.close()
            raise LogLockedError(str(path), holder) from None
        self._sign()

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read().strip() or "another process"

    def _sign(self) -> None:
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}, since {started}\n")
        self._file.flush()

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        self._file.close()
