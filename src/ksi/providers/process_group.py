"""A child process with a group of its own, read line by line; who leaves it leaves none of the group behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ksi.core.errors import ProviderBugError

LINE_BYTES_MAX = 4 << 20
INTERRUPT_GRACE = 1.0
"""Seconds from SIGINT to SIGKILL."""


class ProcessGroup:
    """Made by :func:`running`."""

    def __init__(self, process: asyncio.subprocess.Process, *, provider: str) -> None:
        self._process = process
        self._provider = provider

    async def lines(self, text: str) -> AsyncGenerator[bytes, None]:
        """Write ``text`` to its stdin and close that; the lines that it says, with their ends. The last may have none.

        Raises:
            ProviderBugError: A line has more than :data:`LINE_BYTES_MAX` bytes.
        """
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018 - both are pipes
        writing = asyncio.create_task(_write(self._process.stdin, text))
        try:
            while line := await self._process.stdout.readline():
                yield line
        except ValueError:
            message = f"a line of more than {LINE_BYTES_MAX} bytes"
            raise ProviderBugError(message, provider=self._provider) from None
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def kill(self) -> None:
        """End all of the group, now."""
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Interrupt the group, and kill what does not listen within :data:`INTERRUPT_GRACE` seconds."""
        try:
            self._signal(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERRUPT_GRACE):
                    await self._process.wait()
        finally:
            self.kill()  # also those whose leader has listened
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


async def _write(stdin: asyncio.StreamWriter, text: str) -> None:
    """A child that does not listen says by its end what was wrong."""
    with contextlib.suppress(ConnectionError):
        stdin.write(text.encode())
        await stdin.drain()
        stdin.close()


@asynccontextmanager
async def running(
    command: Sequence[str], *, provider: str, environment: Mapping[str, str], cwd: Path, log_path: Path | None
) -> AsyncIterator[ProcessGroup]:
    """The command as a child that ends with this process. Enter it on the loop's own thread, see ``die_with``."""
    with contextlib.ExitStack() as stack:
        stderr = subprocess.DEVNULL if log_path is None else stack.enter_context(log_path.open("ab")).fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ksi.core.parent", str(os.getpid()), *command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env=dict(environment), cwd=cwd, limit=LINE_BYTES_MAX, start_new_session=True,
        )  # fmt: skip
    group = ProcessGroup(process, provider=provider)
    try:
        yield group
    finally:
        await group.stop()
