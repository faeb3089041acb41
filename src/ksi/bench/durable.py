"""The floor of a command: an echo that answers once its line is on disk, and does nothing else.

``python -m ksi.bench.durable SOCKET FILE``. Lines of a loop turn go to one writing thread as one multi-row INSERT with
``synchronous=FULL``; their answers follow the commit. What a daemon adds to this is its own.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import apsw
import orjson
import uvloop

CHUNKS = (64, 16, 4, 1)


class Log:
    """Rows of ready bytes under an integer key."""

    def __init__(self, path: str) -> None:
        self._connection = apsw.Connection(path)
        self._connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL").get  # noqa: B018  # runs it
        self._connection.execute("CREATE TABLE log(pos INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        self._positions = count(1)

    def write(self, lines: list[bytes]) -> None:
        execute, start = self._connection.execute, 0
        execute("BEGIN IMMEDIATE")
        for size in CHUNKS:
            while len(lines) - start >= size:
                values = [value for line in lines[start : start + size] for value in (next(self._positions), line)]
                execute(f"INSERT INTO log VALUES {','.join(['(?,?)'] * size)}", values)  # noqa: S608  # no input
                start += size
        execute("COMMIT")


class DurableEcho(asyncio.Protocol):
    """One connection; one batch is being written while the next one gathers."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1)
        self._waiting: list[bytes] = []
        self._is_writing = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]  # a socket's transport writes

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._waiting += lines
        if not self._is_writing:
            self._write()

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        self._is_writing = bool(lines)
        if lines:
            written = self._loop.run_in_executor(self._writer, self._log.write, lines)
            written.add_done_callback(lambda _: self._answer(lines))

    def _answer(self, lines: list[bytes]) -> None:
        frames = map(orjson.loads, lines)
        answers = [orjson.dumps({"id": frame["id"], "ok": True, "data": frame["data"]}) for frame in frames]
        self._transport.write(b"\n".join([*answers, b""]))
        self._write()


async def serve(path: str, file: str) -> None:
    sys.setswitchinterval(0.0005)
    log = Log(file)
    server = await asyncio.get_running_loop().create_unix_server(lambda: DurableEcho(log), path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:3]))
