"""Requests over the Unix socket, with everything on, beside a bare echo server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ksi.bench.load import Load
from ksi.bench.measure import Contestant, Row, Sample, rival
from ksi.bench.plugin import item

IN_FLIGHT = 64
LINES = 32_768
QUERIES = {
    "msgspec, inline": ("bench:echo_inline", 0.60),
    "msgspec, async": ("bench:echo_async", 0.45),
    "pydantic, inline": ("bench:model_inline", 0.38),
    "pydantic, async": ("bench:model_async", 0.30),
}
COMMANDS = {"command together, inline": ("bench:put", 0.10), "command together, async": ("bench:put_async", 0.10)}


class Server(msgspec.Struct, frozen=True):
    """A process that listens on ``path``."""

    pid: int
    path: Path

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    """Rows over running servers."""
    load = Load.build(directory)
    echo_lines = _lines(directory, "bench:echo_inline")
    home = directory / "home"
    with (
        server(["ksi.bench.echo", str(directory / "echo.sock")], directory / "echo.sock") as echo,
        server(
            ["ksi.bench.durable", str(directory / "durable.sock"), str(directory / "durable.db")],
            directory / "durable.sock",
        ) as durable,
        server(["ksi.daemon", "--home", str(home), "--plugin", "ksi.bench.plugin:Bench"], home / "daemon.sock") as ksi,
    ):

        def contestant(name: str, lines: Path, target: float, share: int = 1) -> Contestant:
            return Contestant(name, lambda: _sample(load, ksi, lines, count // share), target)

        def bare(name: str, server: Server) -> Contestant:
            return rival(name, lambda: _sample(load, server, echo_lines, count))

        floor = bare(f"bare echo (generator in {load.language})", echo)
        on_disk = bare("bare echo behind bare commits (FULL)", durable)
        queries = [contestant(name, _lines(directory, event), target) for name, (event, target) in QUERIES.items()]
        commands = [
            contestant(name, _lines(directory, event), target, share=4) for name, (event, target) in COMMANDS.items()
        ]
        yield [
            Row(f"wire: query, not recorded, {IN_FLIGHT} in flight", [floor, *queries]),
            Row(f"wire: command, on disk (FULL), {IN_FLIGHT} in flight", [floor, on_disk, *commands]),
        ]


def _sample(load: Load, server: Server, lines: Path, count: int) -> Sample:
    before = server.cpu_seconds()
    seconds = load.run(server.path, lines, window=IN_FLIGHT, count=count)
    return Sample(count / seconds, (server.cpu_seconds() - before) / count * 1e6)


def _lines(directory: Path, event: str) -> Path:
    """The prepared requests of one event; ids come again long after their answers."""
    file = directory / event.replace(":", "-")
    if not file.exists():
        encode = msgspec.json.encode
        frames = ({"id": number, "event": event, "data": item(number)} for number in range(LINES))
        file.write_bytes(b"".join(encode(frame) + b"\n" for frame in frames))
    return file


@contextmanager
def server(module: list[str], path: Path) -> Iterator[Server]:
    """A Python module that runs, once ``path`` is there."""
    process = subprocess.Popen([sys.executable, "-m", *module], stdin=subprocess.DEVNULL)
    try:
        _wait_for(path, process)
        yield Server(process.pid, path)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no server came up at {path}")
        time.sleep(0.02)
