"""What strangers may send, how long they may take, and how much a stalled reader may hold."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from ksi.core.config import HttpSection
from ksi.plugins.permission import Permission, Rate
from ksi.transport.http import outlet, protocol
from tests.transport.http.site import Site, serving
from tests.transport.http.test_websocket import opened

POST = b"POST /v1/events/probe:ask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class Raw:
    """Somebody with a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, site: Site) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", site.port))

    async def end(self) -> tuple[int, str]:
        """Status and code of the answer, after which the server closes."""
        async with asyncio.timeout(10):
            answer = await self.reader.read()
        self.writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        return int(head.split()[1]), json.loads(body)["code"]


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Site]:
    """A site without patience."""
    section = HttpSection(port=0, header_timeout=0.1, body_timeout=0.1, connections_max=8)
    async with serving(tmp_path, section) as site:
        yield site


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "said", [b"", b"GET", b"GET / HTTP/1.1\r\nhost: local", b"\r\n", b"GET / HTTP/1.1\r\nx: 1\r\n"]
)
async def test_headers_that_do_not_come_are_not_waited_for(hasty: Site, said: bytes) -> None:
    raw = await Raw.open(hasty)
    raw.writer.write(said)
    assert await raw.end() == (408, "request_error")


async def test_headers_that_come_drop_by_drop_do_not_hold_the_connection_longer(hasty: Site) -> None:
    raw = await Raw.open(hasty)

    async def drip() -> None:
        for byte in POST * 1_000:
            raw.writer.write(bytes([byte]))
            await asyncio.sleep(0.01)  # a byte at a time, for longer than a request may take

    dripping = asyncio.create_task(drip())
    assert await raw.end() == (408, "request_error")
    dripping.cancel()


async def test_a_body_that_does_not_come_is_not_waited_for(hasty: Site) -> None:
    raw = await Raw.open(hasty)
    token = f"authorization: Bearer {hasty.token}\r\n".encode()
    raw.writer.write(POST + token + b"content-length: 100\r\n\r\n{")
    assert await raw.end() == (408, "request_error")
    await hasty.until(lambda: not hasty.server.state.tasks)


async def test_a_second_request_on_a_connection_has_the_same_time_only(hasty: Site) -> None:
    raw = await Raw.open(hasty)
    raw.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await raw.reader.readuntil(b'{"status":"healthy"}')
    raw.writer.write(b"GET /heal")
    assert await raw.end() == (408, "request_error")


async def test_a_line_end_between_requests_does_not_keep_a_connection_for_ever(hasty: Site) -> None:
    raw = await Raw.open(hasty)
    raw.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await raw.reader.readuntil(b'{"status":"healthy"}')
    raw.writer.write(b"\r\n")
    assert await raw.end() == (408, "request_error")


async def test_an_answer_that_takes_longer_than_a_request_may_is_waited_for(hasty: Site) -> None:
    async with hasty.client() as http:
        asking = asyncio.create_task(http.post("/v1/events/probe:wait", json={}))
        await hasty.probe.began.wait()
        await asyncio.sleep(0.3)  # longer than a request may take to come
        hasty.probe.gate.set()
        assert (await asking).json() == "open"


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_body_that_is_announced_too_large_is_refused_unread(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/probe:ask", json={"text": "x" * (1 << 20)})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


async def test_a_body_that_becomes_too_large_is_refused(http: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (64 << 10)

    answer = await http.post("/v1/events/probe:ask", content=parts(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


async def test_headers_that_never_end_are_refused(site: Site) -> None:
    raw = await Raw.open(site)
    raw.writer.write(POST + b"x: ")
    raw.writer.write(b"y" * (2 * protocol.HEADER_BYTES_MAX))
    assert await raw.end() == (431, "payload_too_large")


@pytest.mark.parametrize("head", [b"GET /healthz HTTP/1.1\r\nx: %b", b"GET /healthz?%b HTTP/1.1\r\nx: y"])
async def test_headers_that_are_too_large_are_refused_also_where_they_come_at_once(site: Site, head: bytes) -> None:
    raw = await Raw.open(site)
    raw.writer.write(head % (b"y" * protocol.HEADER_BYTES_MAX) + b"\r\nhost: localhost\r\n\r\n")
    assert await raw.end() == (431, "payload_too_large")


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9\r\n\r\n", b"{}\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"],
)
async def test_what_is_no_http_is_refused(site: Site, said: bytes) -> None:
    raw = await Raw.open(site)
    raw.writer.write(said)
    assert await raw.end() == (400, "invalid_frame")


async def test_two_lengths_are_no_request(site: Site) -> None:
    raw = await Raw.open(site)
    raw.writer.write(POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}")
    assert await raw.end() == (400, "invalid_frame")


# ── number ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_more_connections_than_may_be_are_refused_and_the_others_served(tmp_path: Path) -> None:
    async with serving(tmp_path, HttpSection(port=0, connections_max=3)) as site, site.client() as http:
        assert (await http.get("/healthz")).status_code == 200
        held = [await Raw.open(site) for _ in range(2)]
        await site.until(lambda: len(site.server.state.connections) == 3)
        assert await (await Raw.open(site)).end() == (503, "overloaded")
        assert (await http.get("/healthz")).status_code == 200
        for raw in held:
            raw.writer.close()
        await site.until(lambda: len(site.server.state.connections) == 1)
        assert await answers(await Raw.open(site))


async def answers(raw: Raw) -> bool:
    raw.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    answer = await raw.reader.read()
    raw.writer.close()
    return b"healthy" in answer


async def test_the_rate_of_a_principal_is_one_over_all_its_connections(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client() as http:
        permission = site.ksi.kernel.plugins._loaded["permission"].plugin
        assert isinstance(permission, Permission)
        permission._rate = Rate(1.0, 2)
        answers = [await http.post("/v1/events/probe:ask", json={}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "1"


async def test_a_thousand_connections_that_say_nothing_cost_little_and_are_let_go(tmp_path: Path) -> None:
    section = HttpSection(port=0, header_timeout=0.3, connections_max=200)
    async with serving(tmp_path, section) as site:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        refused = held = 0
        for _ in range(10):
            half_open = [await Raw.open(site) for _ in range(100)]
            for raw in half_open:
                raw.writer.write(b"POST / HTTP/1.1\r\nhost: a")
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < 16 << 20
            for status, _ in await asyncio.gather(*(raw.end() for raw in half_open)):
                held += status == 408
                refused += status == 503
        tracemalloc.stop()
        assert held + refused == 1_000
        assert await answers(await Raw.open(site))


# ── stalled readers ──────────────────────────────────────────────────────────────────────────────────────────────────
async def stalled_reader(site: Site, name: str, *, size: int, credit: int | None = None) -> Raw:
    """Somebody who asks for a stream without end, and never reads."""
    raw = await reader(site, name, size=size, credit=credit, to=1_000_000)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's is one that reads
    return raw


async def reader(site: Site, name: str, *, size: int, to: int, credit: int | None = None) -> Raw:
    raw = await Raw.open(site)
    body = json.dumps({"name": name, "to": to, "size": size}).encode()
    said = b"" if credit is None else b"ksi-credit: %d\r\n" % credit
    raw.writer.write(
        b"POST /v1/stream/probe:flood HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%b"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (said, site.token.encode(), len(body), body)
    )
    return raw


async def stalled_socket(site: Site, stack: AsyncExitStack, name: str, *, size: int, credit: int) -> None:
    """The same over a WebSocket."""
    connection = await stack.enter_async_context(opened(site, token=site.token, close_timeout=0.01))
    connection.transport.pause_reading()
    data = {"name": name, "to": 1_000_000, "size": size}
    await connection.send(json.dumps({"id": 1, "event": "probe:flood", "data": data, "stream": True, "credit": credit}))


async def settled(site: Site) -> None:
    """Return once nobody makes anything any more."""
    made: dict[str, int] = {}
    while made != site.probe.made:
        made = dict(site.probe.made)
        for _ in range(200):
            await asyncio.sleep(0)


@pytest.mark.parametrize("size", [20, 20_000])
async def test_a_hundred_readers_that_stall_hold_little_and_delay_nobody(tmp_path: Path, size: int) -> None:
    count, credit = 50, 10
    async with serving(tmp_path) as site, site.client() as http, AsyncExitStack() as stack:
        tracemalloc.start()
        stalled = [await stalled_reader(site, f"sse {number}", size=size, credit=credit) for number in range(count)]
        for number in range(count):
            await stalled_socket(site, stack, f"ws {number}", size=size, credit=credit)
        await site.until(lambda: len(site.probe.made) == 2 * count)
        answer = await http.post("/v1/stream/probe:count", json={"name": "quick", "to": 500})
        assert answer.text.count("data: ") == 502
        await settled(site)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2 * count * (2 << 20)
        made = [number for name, number in site.probe.made.items() if name != "quick"]
        assert max(made) == credit, "what they are ready for, and no token more"
        for raw in stalled:
            raw.writer.transport.abort()
        for held_open in list(site.server._sockets.open):
            held_open.abort()


@pytest.mark.parametrize("size", [60, 20_000, 500_000])
async def test_nothing_much_is_made_for_a_reader_that_can_not_grant_and_stops(tmp_path: Path, size: int) -> None:
    count = 10
    async with serving(tmp_path) as site:
        tracemalloc.start()
        stalled = [await stalled_reader(site, f"stalled {number}", size=size) for number in range(count)]
        await site.until(lambda: len(site.probe.made) == count)
        since = time.monotonic()
        await site.until(lambda: time.monotonic() > since + 0.3)  # by then each was asked many times how far it is
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < count * (2 << 20)
        assert max(site.probe.made.values()) <= 4 * outlet.CREDIT
        for raw in stalled:
            raw.writer.transport.abort()


async def test_a_reader_whose_system_offers_less_room_than_before_still_gets_all(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        raw = await reader(site, "narrowing", size=1_000, to=600)
        narrowed = False
        received = b""
        while b"event: end" not in received[-400:]:
            received += await raw.reader.read(65_536)
            if len(received) > 200_000 and not narrowed:
                narrowed = True
                raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        assert received.count(b"x" * 1_000) == 600
        raw.writer.close()


async def test_a_reader_grants_in_all_and_what_is_said_twice_counts_once(site: Site, http: httpx.AsyncClient) -> None:
    body = {"name": "granted", "to": 1_000_000}
    async with http.stream("POST", "/v1/stream/probe:flood", json=body | {"size": 1}, headers={"ksi-credit": "2"}) as a:
        path = f"/v1/readers/{a.headers['ksi-reader']}"
        for credit, made in ((3, 3), (3, 3), (1, 3), (7, 7)):
            assert (await http.put(path, json={"credit": credit})).status_code == 202
            await site.until(lambda made=made: site.probe.made.get("granted") == made)  # type: ignore[misc]  # bound
            await settled(site)
            assert site.probe.made["granted"] == made
        other = {"authorization": f"Bearer {site.tokens.create('agent:eve')}"}
        assert (await http.put(path, json={"credit": 99}, headers=other)).status_code == 404
        assert (await http.put(path, json={"credit": -1})).status_code == 400
    await site.until(lambda: not site.server.state.tasks)
    assert (await http.put(path, json={"credit": 99})).status_code == 404
    refused = await http.post("/v1/stream/probe:flood", json=body, headers={"ksi-credit": "many"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_frame")


async def test_a_reader_that_does_not_take_its_end_loses_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "END_GRACE", 0.1)
    async with serving(tmp_path, stall_timeout=0.1) as site:
        raw = await stalled_reader(site, "stalled", size=500_000)
        await site.until(lambda: len(site.server.state.tasks) == 1)
        await site.until(lambda: not site.server.state.tasks and not site.server.state.connections)
        raw.writer.transport.abort()


@pytest.mark.parametrize(("count", "size"), [(50, 20_000), (5, 500_000)])
async def test_sockets_that_stall_hold_little_whatever_they_granted(tmp_path: Path, count: int, size: int) -> None:
    async with serving(tmp_path) as site, AsyncExitStack() as stack:
        tracemalloc.start()
        for number in range(count):
            await stalled_socket(site, stack, f"stalled {number}", size=size, credit=65_536)
        await site.until(lambda: len(site.probe.made) == count)
        await settled(site)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < count * (2 << 20)
        assert len(site.server._sockets.open) == count, "none was cut off"
        for held_open in list(site.server._sockets.open):
            held_open.abort()
