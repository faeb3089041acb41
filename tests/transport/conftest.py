"""A server on a real socket, and a client that speaks lines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.transport.budget import Limits
from ksi.transport.unix import UnixServer
from tests.transport.echo import EchoDoor


class LineClient:
    """What a stranger with a socket would do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *frames: dict[str, Any] | bytes) -> None:
        lines = (frame if isinstance(frame, bytes) else msgspec.json.encode(frame) for frame in frames)
        self.writer.write(b"".join(line + b"\n" for line in lines))

    async def receive(self) -> Any:
        async with asyncio.timeout(5):
            return msgspec.json.decode(await self.reader.readuntil(b"\n"))

    async def ask(self, frame: dict[str, Any] | bytes) -> Any:
        self.send(frame)
        return await self.receive()

    async def at_end(self) -> bytes:
        """All that still comes until the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


Connect = Callable[[], Awaitable[LineClient]]


@pytest.fixture
async def door() -> EchoDoor:
    return EchoDoor()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
async def server(door: EchoDoor, limits: Limits, tmp_path: Path) -> AsyncIterator[UnixServer]:
    async with UnixServer(door, tmp_path / "daemon.sock", limits) as server:
        yield server


@pytest.fixture
async def connect(server: UnixServer) -> AsyncIterator[Connect]:
    clients: list[LineClient] = []

    async def connect() -> LineClient:
        reader, writer = await asyncio.open_unix_connection(server.path, limit=1 << 22)
        clients.append(LineClient(reader, writer))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.transport.abort()


@pytest.fixture
async def client(connect: Connect) -> LineClient:
    return await connect()
