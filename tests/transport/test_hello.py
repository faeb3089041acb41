"""Whoever says hello with a token is its principal; a child of the daemon is nobody until it does."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.testing.loop import ManualClock
from ksi.transport import lapsing
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer
from tests.transport.conftest import Connect, LineClient
from tests.transport.echo import EchoDoor

ASKING = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(sys.stdin.buffer.read())
peer.shutdown(socket.SHUT_WR)
sys.stdout.buffer.write(peer.makefile("rb").read())
"""


LEAVING = """
import os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
if os.fork():
    os._exit(0)
peer.sendall(b'{"id": 1, "event": "test:echo"}\\n')
with open(int(sys.argv[2]), "wb") as answer:
    answer.write(peer.makefile("rb").readline())
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: ManualClock) -> TokenStore:
    return TokenStore(tmp_path / "tokens.json", clock=clock)


@pytest.fixture
async def server(door: EchoDoor, tokens: TokenStore, tmp_path: Path) -> AsyncIterator[UnixServer]:
    async with UnixServer(door, tmp_path / "daemon.sock", tokens=tokens) as server:
        yield server


def hello(token: str) -> dict[str, Any]:
    return {"hello": 1, "token": token}


async def said_to_a_child(server: UnixServer, *frames: dict[str, Any]) -> list[Any]:
    """The answers that a child process gets."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASKING, str(server.path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    answers, _ = await child.communicate(b"".join(msgspec.json.encode(frame) + b"\n" for frame in frames))
    return [msgspec.json.decode(line) for line in answers.splitlines()]


async def test_a_token_makes_the_connection_its_principal(
    client: LineClient, door: EchoDoor, tokens: TokenStore
) -> None:
    before = await client.ask({"id": 1, "event": "test:echo"})
    greeting = await client.ask(hello(tokens.create("agent:ada")))
    await client.ask({"id": 2, "event": "test:echo"})
    await client.ask({"event": "test:echo"})
    assert (before["ok"], greeting["principal"]) == (True, "agent:ada")
    assert [envelope.principal for envelope in door.seen[1:]] == ["agent:ada"] * 2
    assert [session.principal for session in door.sessions[1:]] == ["agent:ada"] * 2
    assert door.sessions[0].principal.startswith("uid:"), "what was begun before keeps its name"


async def test_what_comes_in_one_write_with_the_hello_is_asked_by_its_principal(
    client: LineClient, door: EchoDoor, tokens: TokenStore
) -> None:
    await client.ask({"id": 1, "event": "test:echo"})
    client.send(hello(tokens.create("agent:ada")), {"id": 2, "event": "test:echo"}, {"id": 3, "event": "test:echo"})
    assert [(await client.receive()).get("id") for _ in range(3)] == [None, 2, 3]
    assert [envelope.principal for envelope in door.seen[1:]] == ["agent:ada"] * 2


async def test_a_name_that_comes_in_one_write_with_a_request_is_its_source(client: LineClient, door: EchoDoor) -> None:
    await client.ask({"id": 1, "event": "test:echo", "data": {}})
    await client.ask({"id": 2, "event": "test:echo", "data": {}})
    client.send({"hello": 1, "client": "teller"}, {"id": 3, "event": "test:echo", "data": {}})
    assert [(await client.receive()).get("id") for _ in range(2)] == [None, 3]
    assert [envelope.source for envelope in door.seen] == ["unix", "unix", "teller"]


async def test_a_wrong_token_is_an_error_and_costs_all_rights(
    client: LineClient, door: EchoDoor, tokens: TokenStore
) -> None:
    await client.ask({"id": 1, "event": "test:echo"})
    client.send(hello("ksi_0_wrong"), {"id": 2, "event": "test:echo"}, {"event": "test:echo"}, {"hello": 1})
    refused = [await client.receive() for _ in range(4)]
    assert [answer.get("id") for answer in refused] == [None, 2, None, None]
    assert [answer["error"]["code"] for answer in (*refused[:2], refused[3])] == ["unauthorized"] * 3
    assert refused[2]["code"] == "unauthorized"
    assert len(door.seen) == 1
    assert (await client.ask(hello(tokens.create("agent:ada"))))["principal"] == "agent:ada"
    assert (await client.ask({"id": 2, "event": "test:echo"}))["ok"] is True


async def test_a_token_is_not_taken_while_a_request_is_under_way(
    client: LineClient, door: EchoDoor, tokens: TokenStore
) -> None:
    client.send({"id": 1, "event": "test:hold"})
    answer = await client.ask(hello(tokens.create("agent:ada")))
    assert answer["error"]["code"] == "invalid_frame"
    door.held[0].answer({})
    assert (await client.receive())["ok"] is True


async def test_whose_token_expires_or_is_revoked_has_to_leave(
    connect: Connect, door: EchoDoor, tokens: TokenStore, clock: ManualClock
) -> None:
    expiring, revoked = await connect(), await connect()
    token = tokens.create("agent:ben")
    await expiring.ask(hello(tokens.create("agent:ada", ttl=60.0)))
    await revoked.ask(hello(token))
    clock.advance(60.0)
    tokens.revoke(tokens.verify(token).token_id)
    for client in (expiring, revoked):
        client.send({"id": 1, "event": "test:echo"})
        first, second = (msgspec.json.decode(line) for line in (await client.at_end()).splitlines())
        assert (first["id"], first["error"]["code"]) == (None, "unauthorized")
        assert (second["id"], second["error"]["code"]) == (1, "unauthorized")
    assert door.seen == []


async def test_a_stream_on_the_socket_ends_with_its_token(
    client: LineClient, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapsing, "CHECK_EVERY", 0.01)
    token = tokens.create("agent:ada")
    await client.ask(hello(token))
    client.send({"id": 1, "event": "test:count", "stream": True, "credit": 1, "data": {"until": 9}})
    assert (await client.receive())["seq"] == 1
    tokens.revoke(tokens.verify(token).token_id)
    rest = [msgspec.json.decode(line) for line in (await client.at_end()).splitlines()]
    assert [(frame["id"], frame["error"]["code"]) for frame in rest] == [(None, "unauthorized"), (1, "unauthorized")]


async def test_a_child_of_the_daemon_is_nobody_until_it_says_its_token(
    server: UnixServer, door: EchoDoor, tokens: TokenStore
) -> None:
    request = {"id": 1, "event": "test:echo"}
    refused = await said_to_a_child(server, request, {"hello": 1})
    assert [answer["error"]["code"] for answer in refused] == ["unauthorized"] * 2
    assert door.seen == []
    _, answer = await said_to_a_child(server, hello(tokens.create("agent:ada")), request)
    assert answer["ok"] is True
    assert door.seen[0].principal == "agent:ada"


async def test_without_tokens_a_child_is_its_uid(door: EchoDoor, tmp_path: Path) -> None:
    async with UnixServer(door, tmp_path / "other.sock") as server:
        (answer,) = await said_to_a_child(server, {"id": 1, "event": "test:echo"})
    assert answer["ok"] is True


async def test_who_connects_ends_and_leaves_the_connection_to_a_child_is_nobody(
    server: UnixServer, door: EchoDoor
) -> None:
    reading, writing = os.pipe()
    # It has ended, and was laid to rest, before the loop goes on and sees that somebody connected.
    command = [sys.executable, "-c", LEAVING, str(server.path), str(writing)]
    subprocess.run(command, pass_fds=[writing], stdin=subprocess.DEVNULL, check=True)  # noqa: ASYNC221  # as said
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = msgspec.json.decode(await asyncio.to_thread(answer.read))
    assert said["error"]["code"] == "unauthorized"
    assert door.seen == []
