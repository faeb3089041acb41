"""The load generator: prepared lines over a Unix socket, a window in flight, newlines counted.

Written in C (``load.c``) where there is a compiler, so that it costs next to nothing; else in Python, and the table
says which: a slow generator flatters a slow server.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

SOURCE = Path(__file__).with_name("load.c")


class Load(msgspec.Struct, frozen=True):
    """A generator; ``binary`` None: in Python."""

    binary: Path | None

    @property
    def language(self) -> str:
        return "C" if self.binary else "Python"

    @classmethod
    def build(cls, directory: Path) -> Load:
        """Compile it into ``directory``, if there is a compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            return cls(None)
        binary = directory / "load"
        subprocess.run([compiler, "-O2", "-o", str(binary), str(SOURCE)], check=True)
        return cls(binary)

    def run(self, path: Path, lines: Path, *, connections: int = 1, window: int = 64, count: int) -> float:
        """Send ``count`` lines; the answer is the seconds until all are answered. Raises where one is an error."""
        if self.binary is None:
            return _in_python(path, lines.read_bytes().splitlines(keepends=True), window, count)
        arguments = [str(path), str(lines), str(connections), str(window), str(count)]
        done = subprocess.run([str(self.binary), *arguments], check=True, capture_output=True, text=True)
        _, seconds, errors = done.stdout.split()
        if int(errors):
            raise RuntimeError(f"{errors} of {count} answers are errors")
        return float(seconds)


def _in_python(path: Path, lines: Sequence[bytes], window: int, count: int) -> float:
    """The same over one connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(path))
        return pump(peer, lines, count_lines, window=window, count=count)


def count_lines(received: bytes) -> int:
    if b'"ok":false' in received:
        raise RuntimeError("an answer is an error")
    return received.count(b"\n")


def pump(
    peer: socket.socket, requests: Sequence[bytes], heard: Callable[[bytes], int], *, window: int, count: int
) -> float:
    """Seconds until ``count`` of ``requests``, sent round and round, have their answers.

    Args:
        heard: How many answers some received bytes are, or end.
    """
    begin = time.perf_counter()
    asked = answered = 0
    owed = window
    while answered < count:
        owed = min(owed, count - asked)
        peer.sendall(b"".join(requests[(asked + ordinal) % len(requests)] for ordinal in range(owed)))
        asked += owed
        received = peer.recv(1 << 18)
        if not received:
            raise RuntimeError("the connection was closed")
        owed = heard(received)
        answered += owed
    return time.perf_counter() - begin
