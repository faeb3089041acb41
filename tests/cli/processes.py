"""``ksi`` as a process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec


class Cli:
    """Runs ``ksi`` with one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ksi.cli.main", "--home", str(self.home), *arguments]

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        """The lines of a command that must succeed, with ``--json``."""
        done = self(*arguments, "--json")
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
