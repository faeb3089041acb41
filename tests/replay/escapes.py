"""A plugin that acts on the outside world past ``context.effect``, in every way that we could think of."""

import asyncio
import ctypes
import os
import socket
import sqlite3
import subprocess
import threading
from pathlib import Path

import apsw
import uvloop

from ksi import AsyncPlugin, EventContext, event


class Escapes(AsyncPlugin):
    name = "escapes"

    @event("escapes:try", durability="before")
    async def escape(self, how: str, port: int, path: str, context: EventContext) -> str:
        """Goes the way that it is told; what it gets for that it swallows."""
        try:
            getattr(self, how)(port, path)
        except Exception:  # noqa: BLE001  # that is what it is for
            context.logger.debug("refused")
        return "done"

    @event("escapes:nothing")
    async def nothing(self) -> str:
        return "done"

    @event("escapes:sleep", durability="before", timeout=None)
    async def sleep(self, path: str) -> str:
        """For as many seconds as the file says."""
        await asyncio.sleep(float(Path(path).read_text()))  # noqa: ASYNC240  # one line
        async with asyncio.timeout(10):
            return await asyncio.to_thread(lambda: "slept")

    def python_connects(self, port: int, path: str) -> None:
        socket.create_connection(("127.0.0.1", port)).close()

    def ctypes_connects(self, port: int, path: str) -> None:
        with socket.socket() as opened:
            address = b"\x02\x00" + port.to_bytes(2, "big") + socket.inet_aton("127.0.0.1") + b"\0" * 8
            ctypes.CDLL(None).connect(opened.fileno(), address, 16)

    def uvloop_connects(self, port: int, path: str) -> None:
        def connect() -> None:
            uvloop.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5))

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join()

    def uvloop_spawns(self, port: int, path: str) -> None:
        async def spawn() -> None:
            process = await asyncio.create_subprocess_exec("touch", path)
            await asyncio.wait_for(process.wait(), 2)

        thread = threading.Thread(target=lambda: uvloop.run(spawn()), daemon=True)
        thread.start()
        thread.join(3)

    def python_spawns(self, port: int, path: str) -> None:
        subprocess.run(["touch", path], check=True)

    def c_library_spawns(self, port: int, path: str) -> None:
        ctypes.CDLL(None).system(f"touch {path}".encode())

    def python_forks(self, port: int, path: str) -> None:
        if os.fork() == 0:
            Path(path).touch()
            os._exit(0)
        os.wait()

    def ctypes_forks(self, port: int, path: str) -> None:
        if ctypes.PyDLL(None).fork() == 0:
            Path(path).touch()
            os._exit(0)
        os.wait()

    def python_writes(self, port: int, path: str) -> None:
        Path(path).write_text("written")

    def ctypes_writes(self, port: int, path: str) -> None:
        ctypes.CDLL(None).open(path.encode(), os.O_CREAT | os.O_WRONLY, 0o600)

    def sqlite_writes(self, port: int, path: str) -> None:
        sqlite3.connect(path).execute("create table t (x)").connection.close()

    def apsw_writes(self, port: int, path: str) -> None:
        apsw.Connection(path).execute("create table t (x)")

    def python_removes(self, port: int, path: str) -> None:
        Path(path).touch()
        Path(path).unlink()


class EagerEscapes(AsyncPlugin):
    """Wants the outside world before anything happens."""

    name = "eager"

    async def initialize(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))

    async def shutdown(self) -> None:
        self.listening.close()

    @event("eager:do")
    async def do(self) -> str:
        return "done"
