"""One command in a sandbox, from the daemon's side: its keeper is started, fed, read and ended."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

import ksi
from ksi.core.config import SandboxSection
from ksi.core.errors import UnsupportedError
from ksi.core.home import Home
from ksi.plugins.sandbox.confine import confinement
from ksi.plugins.sandbox.shapes import Execute, Executed

SOURCE = Path(ksi.__file__).parents[1]
KEEPER = f"import sys; sys.path[:0] = [{str(SOURCE)!r}]; from ksi.plugins.sandbox.keeper import main; main()"
PYTHON = (sys.executable, "-S", "-s", "-E", "-c", KEEPER)
"""Without the site's packages: the keeper is there in a third of the time."""
OUTPUT_BYTES_MAX = 24 << 10
"""Kept of each output: the beginning, which the model and the log get."""
KILL_GRACE = 5.0
"""Seconds for the keeper to kill what it keeps; then it is killed itself."""
ORDER_OF_STRICTNESS = ("none", "partial", "full")
RUNTIME = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt",
    "/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl", "/etc/ca-certificates", "/etc/passwd", "/etc/group",
    "/etc/nsswitch.conf", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/localtime", "/etc/mime.types",
)  # fmt: skip
"""What programs need to run: to be read, not written."""


def refuse_unconfined(wanted: SandboxSection) -> None:
    """Raises UnsupportedError where the system can not confine a command as ``sandbox.confinement`` demands."""
    found = confinement()
    if ORDER_OF_STRICTNESS.index(found) < ORDER_OF_STRICTNESS.index(wanted.confinement):
        raise UnsupportedError(
            f"this system confines commands {found}ly, sandbox.confinement wants {wanted.confinement!r}: "
            "Linux 6.12 with Landlock, or say less"
            if found != "none"
            else "this system has no Landlock, so a command could do all that you can: see sandbox.confinement"
        )


async def execute(asked: Execute, directory: Path, token: str, home: Home, settings: SandboxSection) -> Executed:
    """Run it to its end, or to its time; when this returns, or is cancelled, nothing of it is left."""
    began = monotonic()
    process = await asyncio.create_subprocess_exec(
        *PYTHON,
        msgspec.json.encode(_order(asked, directory, home, settings)).decode(),
        *asked.command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=directory,
        env=_environment(directory, token, home),
        start_new_session=True,
    )
    out, err = _Output(), _Output()
    talk = asyncio.gather(out.read(process.stdout), err.read(process.stderr), _fed(process.stdin, asked.stdin))
    timed_out = False
    try:
        async with asyncio.timeout(asked.timeout):
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        await asyncio.shield(_end(process))
        with suppress(TimeoutError):  # a keeper that was killed itself may leave somebody who holds them
            await asyncio.wait_for(talk, KILL_GRACE)
    code = process.returncode or 0
    return Executed(
        exit_code=None if timed_out or code < 0 else code,
        signal=-code if code < 0 else None,
        timed_out=timed_out,
        stdout=out.text(),
        stderr=err.text(),
        seconds=round(monotonic() - began, 3),
    )


def _order(asked: Execute, directory: Path, home: Home, settings: SandboxSection) -> dict[str, Any]:
    python = (sys.prefix, sys.base_prefix, str(SOURCE))
    seconds = int(asked.timeout) + 1
    return {
        "parent": os.getpid(),
        "directory": str(directory),
        "readable": [*RUNTIME, *python, *settings.readable],
        "network": settings.network,
        "confined": confinement() != "none",
        "socket": str(home.socket),
        "processes_max": settings.processes_max,
        "limits": {
            "CPU": seconds,
            "DATA": settings.memory_bytes_max,
            "FSIZE": settings.file_bytes_max,
            "NOFILE": settings.files_max,
            "CORE": 0,
        },
    }


def _environment(directory: Path, token: str, home: Home) -> dict[str, str]:
    """All of it: nothing of the daemon's own, in which keys of providers may stand."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LANG": "C.UTF-8",
        "KSI_HOME": str(home.path),
        "KSI_TOKEN": token,
    }


async def _fed(stdin: asyncio.StreamWriter | None, text: str) -> None:
    assert stdin is not None
    with suppress(ConnectionError):  # it need not read it
        stdin.write(text.encode())
        await stdin.drain()
    stdin.close()


class _Output:
    """The beginning of an output; the rest is read, counted and dropped, so that nobody stands still."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._bytes = 0

    async def read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while part := await stream.read(64 << 10):
            self._bytes += len(part)
            self._kept += part[: OUTPUT_BYTES_MAX - len(self._kept)]

    def text(self) -> str:
        text = self._kept.decode(errors="replace")
        return text if self._bytes <= len(self._kept) else f"{text}… (cut: {self._bytes} bytes in all)"


async def _end(process: Process) -> None:
    for end in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            end()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_GRACE):
                await process.wait()
