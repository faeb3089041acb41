"""WebSocket: the frames of the Unix socket, one a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from ksi.transport.budget import Limits
from ksi.transport.http import websocket
from tests.transport.http.site import PRINCIPAL, Site, serving


class Socket:
    """A client that speaks frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self.connection.send(json.dumps(frame))

    async def receive(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.connection.recv())

    async def ask(self, frame: dict[str, Any]) -> Any:
        await self.send(frame)
        return await self.receive()

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the end."""
        async with asyncio.timeout(5):
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""


def opened(site: Site, *, token: str | None = None, path: str = "/v1/ws", **options: Any) -> connect:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    url = site.url.replace("http", "ws", 1) + path
    return connect(url, additional_headers=headers | options.pop("headers", {}), proxy=None, **options)


@pytest.fixture
async def socket(site: Site) -> AsyncIterator[Socket]:
    async with opened(site, token=site.token) as connection:
        yield Socket(connection)


# ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_what_is_asked_over_a_websocket_says_so(site: Site) -> None:
    async with opened(site, token=site.token) as connection:
        socket = Socket(connection)
        site.probe.gate.set()
        await socket.send({"id": 1, "event": "probe:act", "data": {"name": "said"}})
        assert (await socket.receive())["ok"]
    (request,) = [event async for event in site.ksi.log.read_stream("$requests") if event.name == "probe:act"][:1]
    assert request.metadata["source"] == "websocket"


async def test_a_browser_says_hello_with_its_token_first(site: Site) -> None:
    async with opened(site) as connection:
        socket = Socket(connection)
        welcome = await socket.ask({"hello": 1, "token": site.token, "client": "page"})
        assert (welcome["hello"], welcome["principal"]) == (1, PRINCIPAL)
        assert (await socket.ask({"id": 1, "event": "system:health"}))["ok"]


@pytest.mark.parametrize(
    "first", [{"hello": 1}, {"hello": 1, "token": "wrong"}, {"id": 1, "event": "system:health"}, {"id": 1}]
)
async def test_who_does_not_say_hello_with_a_token_is_refused(site: Site, first: dict[str, Any]) -> None:
    async with opened(site) as connection:
        socket = Socket(connection)
        refusal = await socket.ask(first)
        assert refusal["error"]["code"] in ("unauthorized", "invalid_frame")
        assert (await socket.closed())[0] == 1008


@pytest.mark.parametrize("is_in_header", [True, False])
async def test_whose_token_is_revoked_has_to_leave(site: Site, is_in_header: bool) -> None:
    async with opened(site, token=site.token if is_in_header else None) as connection:
        socket = Socket(connection)
        greeting = {"hello": 1} if is_in_header else {"hello": 1, "token": site.token}
        assert (await socket.ask(greeting))["principal"] == PRINCIPAL
        site.tokens.revoke(site.tokens.verify(site.token).token_id)
        refusals = [await socket.ask({"id": 1, "event": "system:health"}), await socket.receive()]
        assert [(refusal["id"], refusal["error"]["code"]) for refusal in refusals] == [
            (None, "unauthorized"),
            (1, "unauthorized"),
        ]
        await socket.closed()


async def test_who_says_nothing_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HELLO_TIMEOUT", 0.05)
    async with opened(site) as connection:
        assert (await Socket(connection).receive())["error"]["code"] == "unauthorized"
        assert await Socket(connection).closed() == (1008, "unauthorized")


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"origin": "https://evil.example"}, "/v1/ws", 421),
        ({"origin": "null"}, "/v1/ws", 421),
        ({"sec-fetch-site": "cross-site"}, "/v1/ws", 421),
        ({"authorization": "Bearer wrong"}, "/v1/ws", 401),
        ({}, "/v1/events/system:health", 404),
        ({}, "/", 404),
    ],
)
async def test_a_handshake_that_is_refused_says_why(
    site: Site, headers: dict[str, str], path: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(site, headers=headers, path=path):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["status"] == status


async def test_a_handshake_under_a_foreign_name_is_refused(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nhost: evil.example\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 421")
    writer.close()


async def test_a_handshake_that_is_none_is_refused(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_requests_are_answered_under_their_ids_in_any_order(site: Site, socket: Socket) -> None:
    await socket.send({"id": 1, "event": "probe:wait"}, {"id": 2, "event": "probe:ask", "data": {"text": "a"}})
    assert (await socket.receive())["id"] == 2
    site.probe.gate.set()
    assert await socket.receive() == {"id": 1, "ok": True, "data": "open"}


async def test_several_frames_in_one_message_are_served_one_after_another(socket: Socket) -> None:
    lines = [json.dumps({"id": number, "event": "probe:ask", "data": {"number": number}}) for number in range(5)]
    await socket.connection.send("\n".join(lines))
    assert sorted([(await socket.receive())["id"] for _ in range(5)]) == [0, 1, 2, 3, 4]


async def test_a_message_in_fragments_is_one_message(socket: Socket) -> None:
    async def parts() -> AsyncIterator[str]:
        for part in ('{"id":1,', '"event":', '"system:health"}'):
            yield part

    await socket.connection.send(parts())
    assert (await socket.receive())["ok"]


@pytest.mark.parametrize("size", [10, 1_000, 100_000])
async def test_answers_of_every_size_arrive_whole(socket: Socket, size: int) -> None:
    answer = await socket.ask({"id": 1, "event": "probe:large", "data": {"size": size}})
    assert answer["data"] == "x" * size


async def test_a_message_that_is_too_large_ends_the_connection(socket: Socket) -> None:
    await socket.connection.send("x" * ((1 << 20) + 1))
    assert (await socket.closed())[0] == 1009


async def test_a_stream_comes_by_credit_and_is_cancelled_by_a_frame(site: Site, socket: Socket) -> None:
    await socket.send({"id": 1, "event": "probe:count", "data": {"to": 100}, "stream": True, "credit": 2})
    assert [(await socket.receive())["data"] for _ in range(2)] == [1, 2]
    await socket.send({"id": 1, "credit": 1})
    assert (await socket.receive())["data"] == 3
    end = await socket.ask({"id": 1, "cancel": True})
    assert (end["end"], end["error"]["code"]) == (True, "cancelled")
    assert site.probe.made["count"] <= 4


async def test_a_stream_is_resumed_from_another_connection(site: Site, socket: Socket) -> None:
    await socket.send({"id": 1, "event": "probe:count", "data": {"to": 3}, "stream": True})
    first = await socket.receive()
    async with opened(site, token=site.token) as connection:
        other = Socket(connection)
        await other.send({"id": 9, "resume": first["at"]})
        assert [(await other.receive()).get("data") for _ in range(3)] == [2, 3, "counted"]


async def test_streams_of_a_client_that_leaves_are_cancelled_and_its_commands_are_done(site: Site) -> None:
    async with opened(site, token=site.token) as connection:
        socket = Socket(connection)
        await socket.send({"id": 1, "event": "probe:held", "data": {"name": "left"}, "stream": True})
        assert (await socket.receive())["data"] == 1
        await socket.send({"id": 2, "event": "probe:act", "data": {"name": "done"}})
        await site.until(lambda: len(site.ksi.kernel.router.running) == 2)
    await site.until(lambda: site.probe.ended == ["left"])
    site.probe.gate.set()
    await site.until(lambda: site.probe.ended == ["left", "done"])


async def test_a_peer_from_which_nothing_comes_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "PING_INTERVAL", 0.05)
    async with opened(site, token=site.token, close_timeout=0.1) as connection:
        connection.transport.pause_reading()
        await site.until(lambda: bool(site.server._sockets.open))
        await site.until(lambda: not site.server._sockets.open)


async def test_more_connections_than_may_be_are_refused(tmp_path: Path) -> None:
    limits = Limits(connections_max=1)
    async with serving(tmp_path, limits=limits) as site, opened(site, token=site.token) as first:
        async with opened(site, token=site.token) as second:
            assert (await Socket(second).receive())["error"]["code"] == "overloaded"
        assert (await Socket(first).ask({"id": 1, "event": "system:health"}))["ok"]


async def test_each_stream_gets_its_end_and_each_client_a_goodbye_when_the_daemon_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, opened(site, token=site.token) as connection:
        socket = Socket(connection)
        await socket.send({"id": 1, "event": "event:subscribe", "data": {"after": "start"}, "stream": True})
        async with opened(site) as silent:
            await site.ksi.kernel.router.drain(0.1)
            closing = asyncio.create_task(site.server.close(2.0))
            end = await socket.receive()
            assert (end["end"], end["error"]["code"]) == (True, "shutting_down")
            assert (await socket.closed())[0] == 1001
            assert (await Socket(silent).closed())[0] == 1001
            await closing


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def ends(socket: Socket, frame_id: int) -> list[Any]:
    """The frames of one request until the daemon answers another one behind them."""
    await socket.send({"id": 99, "event": "probe:ask"})
    frames = []
    while (frame := await socket.receive()).get("id") != 99:
        frames.append(frame)
    return [frame for frame in frames if frame["id"] == frame_id and frame.get("end")]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stream_that_is_cancelled_before_its_first_chunk_has_one_end(
    site: Site, socket: Socket, times: int
) -> None:
    frame = {"id": 1, "event": "probe:count", "data": {"name": "never"}, "stream": True, "credit": 0}
    await socket.send(frame, *[{"id": 1, "cancel": True}] * times)
    end = await socket.receive()
    assert (end["end"], end["error"]["code"]) == (True, "cancelled")
    assert (await ends(socket, 1), site.probe.made) == ([], {})


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stream_that_is_cancelled_in_its_middle_has_one_end(site: Site, socket: Socket, times: int) -> None:
    await socket.send({"id": 1, "event": "probe:held", "data": {"name": "middle"}, "stream": True})
    assert (await socket.receive())["data"] == 1
    await socket.send(*[{"id": 1, "cancel": True}] * times)
    end = await socket.receive()
    assert (end["error"]["code"], site.probe.ended) == ("cancelled", ["middle"])
    assert await ends(socket, 1) == []


async def test_a_cancel_after_the_end_changes_nothing(socket: Socket) -> None:
    await socket.send({"id": 1, "event": "probe:count", "data": {"to": 1}, "stream": True})
    assert [(await socket.receive())["data"] for _ in range(2)] == [1, "counted"]
    await socket.send({"id": 1, "cancel": True})
    assert await ends(socket, 1) == []


async def test_a_reader_that_grants_much_gets_all_of_it_in_order(socket: Socket) -> None:
    frame = {"id": 1, "event": "probe:count", "data": {"to": 3_000}, "stream": True, "credit": 65_536}
    await socket.send(frame)
    assert [(await socket.receive())["data"] for _ in range(3_001)] == [*range(1, 3_001), "counted"]
