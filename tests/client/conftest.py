"""A client of a server on a real socket; the door behind it answers from functions."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.client.client import EventClient
from ksi.transport.unix import UnixServer
from tests.transport.echo import EchoDoor


@pytest.fixture
async def door() -> EchoDoor:
    return EchoDoor()


@pytest.fixture
async def server(door: EchoDoor, tmp_path: Path) -> AsyncIterator[UnixServer]:
    server = UnixServer(door, tmp_path / "daemon.sock")
    await server.start()
    yield server
    await server.close(grace=0.1)


@pytest.fixture
async def client(server: UnixServer) -> AsyncIterator[EventClient]:
    async with EventClient(server.path, reconnect_timeout=5.0) as client:
        yield client


def drop_connections(server: UnixServer) -> None:
    for connection in list(server.common.connections):
        connection.abort()
