"""The daemon's side of the sealed child: starts it, answers what it asks of the log, and takes its report."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ksi.core.errors import ReplayError, ReplayEscapeError, from_wire
from ksi.plugins.timetravel.orders import Begins, Orders, Report
from ksi.store.piped import AnyQuestion, LogServer, encode

MODULE = "ksi.replay.child"
LINE_BYTES_MAX = 64 << 20
"""Of a report that shows two payloads of a divergence."""
_decode = msgspec.json.Decoder(AnyQuestion | Begins | Report).decode


async def repeat(orders: Orders, log: LogServer, *, output: Path | None) -> Report:
    """Have a child of its own repeat a run. ``output`` takes what it and its plugins print.

    Raises:
        ReplayEscapeError: A plugin was stopped by the system.
        ReplayError: The child died.
        KSIError: What the replay says.
    """
    async with _child(output) as process:
        plugin = "nobody"
        _send(process, orders)
        while line := await _line(process):
            match _decode(line):
                case Begins(name):
                    plugin = name
                case Report() as report:
                    return _checked(report)
                case question:
                    _send(process, await log.answer(question))
        code = await process.wait()
    if code == -signal.SIGSYS:  # the call came where no signal could be told of it
        raise ReplayEscapeError(plugin, "native code tried to run a program")
    raise ReplayError(f"the process of the replay ended with {code} in a handler of plugin {plugin!r}")


def _checked(report: Report) -> Report:
    if report.failure is not None:
        raise from_wire(report.failure.code, report.failure.message, report.failure.details)
    return report


@asynccontextmanager
async def _child(output: Path | None) -> AsyncIterator[asyncio.subprocess.Process]:
    with contextlib.ExitStack() as stack:
        stderr = subprocess.DEVNULL if output is None else stack.enter_context(output.open("ab")).fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", MODULE,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent; it stops the child
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _send(process: asyncio.subprocess.Process, what: msgspec.Struct) -> None:
    assert process.stdin is not None  # a pipe; the child reads each line before it asks for the next
    process.stdin.write(encode(what) + b"\n")


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None  # a pipe
    return await process.stdout.readline()
