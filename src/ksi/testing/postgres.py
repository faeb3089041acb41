"""A PostgreSQL server of a test's own: the binaries of the system, in a directory that goes with it.

It listens on a Unix socket only, so no port can be taken. It never runs as root: root runs it as ``postgres``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

ABSENT = "PostgreSQL's server is not installed here: make test-deps"
PORT = "5432"
"""Part of the socket's name; whatever PGPORT says."""
START_TIMEOUT = 30.0
QUICK = {"fsync": "off", "full_page_writes": "off"}
"""Settings for a server whose data no power loss will meet."""
_numbers = count(1)


def binaries() -> Path | None:
    """The directory of ``initdb`` and ``postgres``, of the newest version; None where there is none."""
    on_path = shutil.which("initdb")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *([Path(on_path).resolve()] if on_path else [])]
    return max(found, key=_version).parent if found else None


def _version(path: Path) -> int:
    number = re.search(r"/(\d+)/bin/", str(path))
    return int(number[1]) if number else 0


class PostgresServer:
    """Runs from :meth:`start` to :meth:`stop`, and may be started again."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        found = binaries()
        if found is None:
            raise FileNotFoundError(ABSENT)
        self._binaries, self._settings = found, settings
        self.directory = directory
        self._data = directory / "data"
        self._as: dict[str, Any] = {"user": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        if self._as:
            shutil.chown(self.directory, "postgres", "postgres")
        command: list[str | Path] = [
            self._binaries / "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
        ]
        # The same order and messages everywhere, whatever the machine speaks.
        self._run([*command, "--no-sync", "--locale=C"])

    def _run(self, command: list[str | Path]) -> None:
        subprocess.run(command, check=True, cwd="/", capture_output=True, **self._as)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "port": PORT,
            "unix_socket_directories": str(self.directory),
            **self._settings,
        }
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *chosen], cwd="/", stdout=log, stderr=log, **self._as
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "server.log").read_text())
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT rolls back what runs and ends in order; SIGQUIT leaves it to the next start, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_TIMEOUT)
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}&port={PORT}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database; gives its name."""
        name = f"ksi_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def postgres_server(settings: Mapping[str, str] = QUICK) -> Iterator[PostgresServer]:
    """One that runs until the end of the block.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="ksi-pg-") as directory:
        server = PostgresServer(Path(directory), settings)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
