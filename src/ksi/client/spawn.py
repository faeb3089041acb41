"""Starting the daemon of a home."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ksi.core.errors import KSIConnectionError, KSIError, from_wire
from ksi.core.home import Home, said_of_disk

START_TIMEOUT = 60.0
"""Seconds: a start after a crash has requests to run again, and one that is broken off counts as an attempt at them."""
_POLL_INTERVAL = 0.02
_LOG_LINES = 10
_NAMED = re.compile(r"ksi: (?P<code>[a-z_]+): (?P<message>.+)")
_started: list[subprocess.Popen[bytes]] = []
"""Kept, so that one that died early is no zombie and Python does not warn of those that live on, as they should."""


def start_daemon(home: Home, *, arguments: Sequence[str] = (), timeout: float = START_TIMEOUT) -> int | None:
    """Start the daemon and wait until its socket answers; its pid, or None where one answered already.

    ``arguments`` are further ones of ``python -m ksi.daemon``.

    Raises:
        ConfigError: The home can not be made.
        KSIError: It ended, and said why.
        KSIConnectionError: It ended, or did not answer in ``timeout`` seconds; with the last lines of its output.
    """
    if is_answering(home.socket):
        return None
    output = home.logs / "daemon.out"
    process = _spawn(home, output, arguments)
    until = time.monotonic() + timeout
    while not is_answering(home.socket):
        if process.poll() is not None:
            raise _why(output) or KSIConnectionError(f"the daemon ended with code {process.returncode}{_tail(output)}")
        if time.monotonic() > until:
            process.terminate()
            raise KSIConnectionError(f"the daemon did not answer within {timeout:g} s{_tail(output)}")
        time.sleep(_POLL_INTERVAL)
    return process.pid


def is_answering(path: Path) -> bool:
    """Whether somebody listens there; it may be too busy to accept a connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _spawn(home: Home, output: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    home.make()
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ksi.daemon", "--home", str(home.path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    return process


def _why(output: Path) -> KSIError | None:
    """The error that the daemon named in its last line, ``ksi: code: message``; its facts are in the message only."""
    said = output.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    named = _NAMED.fullmatch(said)
    return None if named is None else from_wire(named["code"], named["message"])


def _tail(output: Path) -> str:
    with output.open(encoding="utf-8", errors="replace") as lines:
        last = deque(lines, maxlen=_LOG_LINES)
    if last:
        return f"; the end of {output}:\n{''.join(last).rstrip()}"
    return f"; it wrote nothing into {output}{said_of_disk(output)}"
