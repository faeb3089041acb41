"""A real daemon in a process of its own, to be asked, stopped, killed and started again on the same home."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from ksi.client.client import EventClient
from ksi.client.spawn import is_answering
from ksi.core.errors import KSIConnectionError
from ksi.core.home import Home

START_TIMEOUT = 60.0
"""Seconds that a daemon has to answer, and to end: generous, for machines where much else runs."""
RECONNECT_TIMEOUT = 60.0
_POLL_INTERVAL = 0.02
_LINES_SHOWN = 20


class DaemonProcess:
    """``python -m ksi.daemon`` on ``home``, which outlives its processes.

    ::

        async with DaemonProcess(tmp_path, "plugins/counter.py") as daemon, daemon.client() as client:
            await client.request("counter:add", name="a")
            await daemon.kill()
            await daemon.start()  # the client is connected again by itself
    """

    def __init__(self, home: Path, *plugins: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """``settings`` are values of the configuration by dotted name. HTTP is off where they say nothing of it."""
        self.home = Home(home)
        self._plugins = plugins
        self._settings = settings or {}
        if not any(name.startswith("http.") for name in self._settings):
            self._settings = {**self._settings, "http.enabled": False}
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        return self._running.pid

    def client(self, **options: Any) -> EventClient:
        """A client of it; unlike others it waits for a restart for a minute."""
        return EventClient(home=self.home.path, **{"reconnect_timeout": RECONNECT_TIMEOUT, **options})

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            KSIConnectionError: It ended instead; with the last lines of what it said.
        """
        await self.spawn()
        async with asyncio.timeout(START_TIMEOUT):
            while not is_answering(self.home.socket):
                if self._running.returncode is not None:
                    raise KSIConnectionError(f"the daemon ended with code {self._running.returncode}\n{self.said()}")
                await asyncio.sleep(_POLL_INTERVAL)

    async def http_url(self) -> str:
        """Where it is reached over HTTP, once it is; the settings must turn it on."""
        async with asyncio.timeout(START_TIMEOUT):
            while (url := _url_in(self.home.http_file, self.pid)) is None:  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(_POLL_INTERVAL)
        return url

    async def spawn(self) -> None:
        """Start it and wait for nothing."""
        self.home.make()
        with self._output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(), stdin=DEVNULL, stdout=output, stderr=STDOUT, env=_environment()
            )

    async def kill(self) -> int:
        """``kill -9``, unless it has ended; its exit code."""
        return await self.stop(signal.SIGKILL)

    async def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, unless it has ended, and wait for its end; its exit code."""
        if self._running.returncode is None:
            self._running.send_signal(with_signal)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(START_TIMEOUT):
            return await self._running.wait()

    def said(self) -> str:
        """The last lines of its output and of its log."""
        files = [file for file in (self._output, self.home.logs / "daemon.log") if file.exists()]
        return "\n".join(line for file in files for line in deque(file.read_text().splitlines(), maxlen=_LINES_SHOWN))

    def children(self) -> set[int]:
        """Its child processes and theirs, by pid."""
        return descendants(self.pid)

    def descriptors(self) -> int:
        """How many files, sockets and pipes it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def resident_bytes(self) -> int:
        """Memory that it has now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    @contextmanager
    def full_disk(self, room: int = 0) -> Iterator[None]:
        """Its write-ahead log grows by no more than ``room`` bytes: the system's limit, so real errors come back."""
        wal = self.home.data / "events.db-wal"
        soft, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (wal.stat().st_size + room, hard))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))

    @property
    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("the daemon is not started: async with DaemonProcess(…) as daemon")
        return self._process

    @property
    def _output(self) -> Path:
        return self.home.logs / "daemon.out"

    def _command(self) -> list[str]:
        plugins = [f"--plugin={plugin}" for plugin in self._plugins]
        settings = [f"--set={name}={value}" for name, value in self._settings.items()]
        return [sys.executable, "-m", "ksi.daemon", f"--home={self.home.path}", *plugins, *settings]


def _url_in(file: Path, pid: int) -> str | None:
    """Where the process ``pid`` says that it listens; None while it does not say."""
    try:
        said = msgspec.json.decode(file.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return said.get("url") if said["pid"] == pid else None


def descendants(pid: int) -> set[int]:
    """Child processes of ``pid`` and theirs; empty where it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return children.union(*map(descendants, children))


def is_alive(pid: int) -> bool:
    """Whether a process has this pid; one that has ended and was not waited for does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _environment() -> dict[str, str]:
    """The test's own, without what would configure the daemon."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KSI_")}
