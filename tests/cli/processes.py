"""``ksi`` as a process."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec


def on_a_terminal(*command: str, typed: str = "") -> tuple[str, str]:
    """What a command that must succeed shows on a terminal, and what it says on stderr."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True) as running:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # the command has ended
            os.close(ours)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == 0, said
    return shown.decode(), said


class Cli:
    """Runs ``ksi`` with one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ksi.cli", "--home", str(self.home), *arguments]

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    def text(self, *arguments: str) -> str:
        """What a command that must succeed shows to people."""
        done = self(*arguments, "--no-json")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        """The lines of a command that must succeed, as programs read them."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return [msgspec.json.decode(line) for line in done.stdout.splitlines()]

    @contextmanager
    def open(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command, running; killed where the test fails, which would otherwise wait for its end for ever."""
        with subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
