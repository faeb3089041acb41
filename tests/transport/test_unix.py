"""The socket's file, and stopping."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from ksi.core.errors import ConfigError
from ksi.transport.unix import UnixServer
from tests.transport.conftest import Connect, LineClient
from tests.transport.echo import EchoDoor


async def test_the_socket_and_the_directory_made_for_it_are_the_owners_alone(door: EchoDoor, tmp_path: Path) -> None:
    async with UnixServer(door, tmp_path / "home" / "daemon.sock") as server:
        assert server.path.stat().st_mode & 0o777 == 0o600
        assert server.path.parent.stat().st_mode & 0o777 == 0o700
    assert not server.path.exists()


async def test_a_stale_socket_is_replaced(door: EchoDoor, tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with UnixServer(door, path):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        await writer.wait_closed()


async def test_a_socket_that_answers_is_left_alone(server: UnixServer, door: EchoDoor, client: LineClient) -> None:
    with pytest.raises(ConfigError, match="answers there already"):
        await UnixServer(door, server.path).start()
    assert (await client.ask({"id": 1, "event": "test:echo"}))["ok"] is True


async def test_a_file_that_is_no_socket_is_left_alone(door: EchoDoor, tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        await UnixServer(door, path).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_the_system_says_what_to_do(door: EchoDoor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose a shorter --home"):
        await UnixServer(door, tmp_path / ("long" * 40) / "daemon.sock").start()


async def test_a_directory_that_anybody_may_write_to_is_refused(door: EchoDoor, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)  # noqa: PTH101  # ruff takes a path's own method for blocking, this not
    with pytest.raises(ConfigError, match="chmod 700"):
        await UnixServer(door, tmp_path / "daemon.sock").start()


async def test_closing_waits_for_what_is_in_flight_and_loses_no_answer(
    connect: Connect, door: EchoDoor, server: UnixServer
) -> None:
    client = await connect()
    client.send({"id": 1, "event": "test:hold"}, *({"id": n, "event": "test:echo"} for n in range(2, 500)))
    await door.seen_count(1)
    closing = asyncio.ensure_future(server.close(grace=5))
    await door.seen_count(499)
    door.held[0].answer({})
    lines = (await client.at_end()).splitlines()
    await closing
    assert len(lines) == 499


async def test_closing_cuts_off_what_does_not_end_in_its_grace(
    connect: Connect, door: EchoDoor, server: UnixServer
) -> None:
    client = await connect()
    client.send({"id": 1, "event": "test:hold"})
    await door.seen_count(1)
    await server.close(grace=0.01)
    assert not server.common.connections
    assert await client.at_end() == b""
