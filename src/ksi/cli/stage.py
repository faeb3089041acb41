"""Where the demo plays: commands as a user types them, run as processes, shown and counted; claims, checked."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Any

import click
import msgspec

from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.output import Record, json_line
from ksi.client.sync import SyncEventClient

COMMAND_TIMEOUT = 120.0
PAUSE = 1.5


class ClaimFailedError(click.ClickException):
    """Something that the demo claims does not hold. Exit code 1."""


Chunk = tuple[str, str]
"""Where a piece of text stands in the log, and the piece."""


class Told(msgspec.Struct):
    """What a streaming command gave; ``seconds`` are those from the first piece to the last."""

    chunks: list[Chunk] = []
    end: Record = {}
    seconds: float = 0.0
    exit_code: int = 0
    error: str = ""  #: its code

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.chunks)

    @property
    def stream(self) -> str:
        """The stream of the log that holds the pieces."""
        return self.chunks[0][0].partition("@")[0]


Act = Callable[["subprocess.Popen[str]"], None]


class Stage:
    """One home, and the terminal or pipe that watches."""

    def __init__(self, home: Path, *, as_json: bool) -> None:
        self.home = home
        self.as_json = as_json
        self._is_terminal = sys.stdout.isatty() and not as_json
        # Settings of the user's own daemon must not change what is shown here.
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("KSI_")}
        if "KSI_MODELS" in os.environ:
            self._environ["KSI_MODELS"] = os.environ["KSI_MODELS"]

    def beat(self, number: int, name: str, words: str) -> None:
        self._say({"beat": number, "name": name}, click.style(f"\n{number}. {name}", bold=True) + f"  {words}")
        self.pause()

    def claim(self, holds: bool, words: str) -> None:
        """Show that it holds.

        Raises:
            ClaimFailedError: It does not.
        """
        if not holds:
            raise ClaimFailedError(f"the demo's claim does not hold: {words}")
        self._say({"claim": words}, f"   {click.style('✓', fg='green')} {words}")

    def typed(self, line: str) -> None:
        """A command as a user types it."""
        self._say({"command": line}, click.style(f"   $ {line}", fg="cyan"))

    def note(self, words: str) -> None:
        self._say({"note": words}, f"   {words}")

    def ended(self, record: Record, text: str) -> None:
        self._say(record, f"\n{click.style(text, bold=True)}")

    def pause(self) -> None:
        """Time to read, for whoever is there."""
        if self._is_terminal:
            sleep(PAUSE)

    def look(self, event: str, **fields: Any) -> Any:
        """What the daemon answers, without a command: what is checked need not be typed."""
        with SyncEventClient(self.home / "daemon.sock") as client:
            return client.request(event, fields)

    def ask(self, *arguments: str) -> list[Record]:
        """Records of a command that is not shown.

        Raises:
            ClaimFailedError: It failed.
        """
        with self._open(*arguments) as process:
            assert process.stdout is not None
            records = [msgspec.json.decode(line) for line in process.stdout]
            said = _said(process)
        if process.returncode:
            raise ClaimFailedError(f"`{_line(arguments)}` ended with exit code {process.returncode}: {said}")
        return records

    def run(self, *arguments: str) -> list[Record]:
        """The same, shown as it is typed."""
        self.typed(_line(arguments))
        return self.ask(*arguments)

    def show(self, *arguments: str) -> None:
        """A command and what it says to people."""
        self.typed(_line(arguments))
        command = [sys.executable, "-m", "ksi.cli", "--home", str(self.home), "--no-json", *arguments]
        done = subprocess.run(command, env=self._environ, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        for line in done.stdout.splitlines():
            self._say({"line": line}, f"   {line}")

    def stream(self, *arguments: str, after: int = 0, act: Act | None = None) -> Told:
        """A command that streams text, shown as it comes; ``act`` is done once ``after`` pieces were seen."""
        self.typed(_line(arguments))
        told, first = Told(), 0.0
        with self._open(*arguments) as process, _ended_on_error(process):
            assert process.stdout is not None
            for line in process.stdout:
                self._take(told, msgspec.json.decode(line))
                first = first or monotonic()
                told.seconds = monotonic() - first
                if act is not None and len(told.chunks) == after and not told.end:
                    self._write("\n")
                    act(process)
            said = _said(process)
        told.exit_code = process.returncode
        self._say({"text": told.text}, "")
        if told.exit_code == EXIT_EVENT_ERROR:
            error = msgspec.json.decode(said)["error"]
            told.error = error["code"]
            self.note(error["message"])
        return told

    def _take(self, told: Told, record: Record) -> None:
        if record.get("end"):
            told.end = record["data"]
            return
        told.chunks.append((record["at"], record["data"]["text"]))
        self._write(("   " if len(told.chunks) == 1 else "") + told.chunks[-1][1].replace("\n", "\n   "))

    def _write(self, text: str) -> None:
        if not self.as_json:
            click.echo(text, nl=False)

    @contextmanager
    def _open(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "ksi.cli", "--home", str(self.home), "--json", *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=self._environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        ) as process:
            limit = Timer(COMMAND_TIMEOUT, process.kill)
            limit.start()
            try:
                yield process
            finally:
                limit.cancel()

    def _say(self, record: dict[str, Any], text: str) -> None:
        click.echo(json_line(record) if self.as_json else text)


@contextmanager
def _ended_on_error(process: subprocess.Popen[str]) -> Iterator[None]:
    """Nobody waits for the answer any more: its command would be waited for."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def _line(arguments: tuple[str, ...]) -> str:
    return shlex.join(("ksi", *arguments))
