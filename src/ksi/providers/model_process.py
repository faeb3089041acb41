"""The parent's side of the model's child process: spawn, wait until it serves, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import msgspec

from ksi.core.errors import ModelUnavailableError
from ksi.providers.local_child import Orders, Report, Serving

START_TIMEOUT = 60.0
STOP_GRACE = 2.0
SETTLE_TIMEOUT = 0.5


class ModelProcess:
    """One running child. Made by :meth:`spawn`; whoever holds it stops it."""

    def __init__(self, process: asyncio.subprocess.Process, *, provider: str) -> None:
        self.address = ""
        self.api_key = secrets.token_urlsafe(32)
        self._process = process
        self._provider = provider

    @classmethod
    async def spawn(cls, serving: Serving, *, provider: str, log_path: Path | None) -> ModelProcess:
        """A child that serves. Called on the loop's own thread: the death signal binds to the thread that forks.

        Raises:
            ModelUnavailableError: It did not come up.
        """
        child = cls(await _fork(log_path), provider=provider)
        orders = Orders(parent=os.getpid(), api_key=child.api_key, serving=serving)
        try:
            child.address = await child._instruct(orders)
        except BaseException:  # a cancel, too, leaves no child
            await child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def settle(self) -> None:
        """After a lost connection: wait until its end is known, if that is why; a process closes its sockets first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT):
                await self._process.wait()

    async def stop(self) -> None:
        """Terminate, and kill it if it does not listen within :data:`STOP_GRACE` seconds."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE):
                    await self._process.wait()
        finally:
            if self.is_running:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._process.wait()

    async def _instruct(self, orders: Orders) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: PT018 - both are pipes
        try:
            async with asyncio.timeout(START_TIMEOUT):
                stdin.write(msgspec.json.encode(orders) + b"\n")
                await stdin.drain()
                return self._address(await stdout.readline())
        except TimeoutError:
            raise self._unavailable(f"did not come up within {START_TIMEOUT:g} s") from None
        except ConnectionError:
            raise self._unavailable("died at its start") from None

    def _address(self, line: bytes) -> str:
        if not line:
            raise self._unavailable("died while it loaded the model")
        report = msgspec.json.decode(line, type=Report)
        if report.address is None:
            raise self._unavailable(f"can not serve: {report.error}")
        return report.address

    def _unavailable(self, what: str) -> ModelUnavailableError:
        return ModelUnavailableError(f"the model's process {what}", provider=self._provider)


async def _fork(log_path: Path | None) -> asyncio.subprocess.Process:
    with contextlib.ExitStack() as stack:
        stderr = subprocess.DEVNULL if log_path is None else stack.enter_context(log_path.open("ab")).fileno()
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ksi.providers.local_child",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent; it stops the child
        )
