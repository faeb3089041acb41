"""A child process that ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Be killed when the process ``parent`` ends, where the system can do that; end now where it is gone already.

    The signal binds to the thread that spawned this process: the parent spawns on the thread of its loop.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the signal was asked for
        os._exit(0)


def main() -> None:
    """``python -m ksi.core.parent PID COMMAND…`` becomes the command, which ends with ``PID``."""
    parent, *command = sys.argv[1:]
    die_with(int(parent))
    os.execvp(command[0], command)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main()
