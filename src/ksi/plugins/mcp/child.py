"""A server of MCP that is a child of the daemon, spoken to on its stdin and stdout. Needs the extra ``mcp``.

The package's own transport knows no longest line, and no place but a file for what the child says on stderr.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from ksi.core.config import McpSection
from ksi.core.errors import ToolServerError
from ksi.providers.process_group import ProcessGroup

LINE_BYTES_MAX = 4 << 20
NOISE_MAX = 32
"""Lines on stdout that are no message: some say a word of welcome there."""
QUOTED_MAX = 200
"""Bytes of a line that the log, or an error, repeats."""
END_GRACE = 1.0
"""Seconds for it to end by itself when its stdin is closed."""
Received = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Received], MemoryObjectSendStream[SessionMessage]]


class Child:
    """Once it has called ``on_end``, :attr:`problem` says why it ended."""

    def __init__(self, server: str, section: McpSection, *, logger: logging.Logger, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self.problem = "it ended"
        self._server = server
        self._section = section
        self._logger = logger

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[Streams]:
        """Enter it on the loop's own thread: the child ends with that. Who leaves it leaves no child.

        Raises:
            ToolServerError: There is no such program, or directory.
        """
        process = await self._spawned()
        into, received = anyio.create_memory_object_stream[Received](0)
        sent, out_of = anyio.create_memory_object_stream[SessionMessage](0)
        listening = asyncio.create_task(self._listen(process))
        talk = (self._read(process, into, listening), self._write(process, out_of))
        tasks = [listening, *map(asyncio.create_task, talk)]
        try:
            yield received, sent
        finally:
            await asyncio.shield(_end(process, self._server))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in (into, received, sent, out_of):
                stream.close()

    async def _spawned(self) -> Process:
        program = shutil.which(self._section.command[0])
        if program is None:
            raise ToolServerError(f"there is no program {self._section.command[0]!r}", server=self._server)
        own = {name: value.reveal() for name, value in self._section.environment.items()}
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "ksi.core.parent", str(os.getpid()), program, *self._section.command[1:],
                stdin=PIPE, stdout=PIPE, stderr=PIPE, env=get_default_environment() | own,
                cwd=self._section.directory, limit=LINE_BYTES_MAX, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ToolServerError(f"it can not be started: {error}", server=self._server) from None

    async def _read(
        self, process: Process, into: MemoryObjectSendStream[Received], listening: asyncio.Task[None]
    ) -> None:
        assert process.stdout is not None
        try:
            noise = 0
            while noise < NOISE_MAX and (line := await process.stdout.readline()):
                message = _message(line)
                if message is not None:
                    await into.send(message)
                elif line.strip():
                    noise += 1
                    self.problem = f"it says what is no message: {_quoted(line)}"
            if noise < NOISE_MAX:
                await asyncio.wait((listening,), timeout=END_GRACE)  # for its last word
        except ValueError:
            self.problem = f"it says a line of more than {LINE_BYTES_MAX} bytes"
        except (anyio.BrokenResourceError, ConnectionError):
            pass  # nobody listens any more
        finally:
            self._on_end()
            into.close()

    async def _write(self, process: Process, out_of: MemoryObjectReceiveStream[SessionMessage]) -> None:
        assert process.stdin is not None
        with suppress(ConnectionError):  # that it has ended is seen where it is read
            async for message in out_of:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(line.encode() + b"\n")
                await process.stdin.drain()

    async def _listen(self, process: Process) -> None:
        """What it says on stderr goes to the log; its last line is the best reason for an end."""
        assert process.stderr is not None
        while line := await _line(process.stderr):
            if line.strip():
                self.problem = f"it ended: {_quoted(line)}"
                self._logger.info("server %s of MCP says: %s", self._server, _quoted(line))


async def _line(stream: asyncio.StreamReader) -> bytes:
    with suppress(ValueError):
        return await stream.readline()
    return b"a line that is too long\n"


def _message(line: bytes) -> SessionMessage | None:
    with suppress(ValueError):
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    return None


def _quoted(line: bytes) -> str:
    return line[:QUOTED_MAX].decode(errors="replace").strip()


async def _end(process: Process, server: str) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(END_GRACE):
            await process.wait()
    await ProcessGroup(process, provider=server).stop()
