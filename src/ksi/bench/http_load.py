"""The load generator of HTTP: prepared bytes over many connections, in Python, the same for both sides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop


class Target(msgspec.Struct, frozen=True):
    """Where a server listens, and the token that it wants (empty: none)."""

    port: int
    token: str = ""

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole request."""
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        lines += ["content-type: application/json"] if body else []
        lines += [f"authorization: Bearer {self.token}"] if self.token else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def open(self, client: Callable[[], Client]) -> tuple[asyncio.Transport, Client]:
        return await asyncio.get_running_loop().create_connection(client, "127.0.0.1", self.port)


class UnixTarget(msgspec.Struct, frozen=True):
    """The Unix socket of a daemon."""

    path: str

    async def open(self, client: Callable[[], Client]) -> tuple[asyncio.Transport, Client]:
        return await asyncio.get_running_loop().create_unix_connection(client, self.path)


class Client(asyncio.Protocol):
    """A connection that sends the next bytes whenever an answer is complete. ``owed`` says how many answers came."""

    def __init__(self, next_bytes: Callable[[], bytes | None], done: asyncio.Event) -> None:
        self._next_bytes = next_bytes
        self._done = done
        self._rest = b""
        self._transport: asyncio.WriteTransport
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a socket's transport writes
        self.ask(1)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        self.ask(self.answers())

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._done.set()

    def answers(self) -> int:
        """How many answers are complete; their bytes are dropped."""
        head, mark, rest = self._rest.partition(b"\r\n\r\n")
        if not mark:
            return 0
        _refuse_failure(head)
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) < size:
            return 0
        self._rest = rest[size:]
        return 1

    def ask(self, owed: int) -> None:
        for _ in range(owed):
            following = self._next_bytes()
            if following is None:
                self._done.set()
                return
            self._transport.write(following)


class LineClient(Client):
    """The same for the wire protocol: an answer is a line."""

    def answers(self) -> int:
        if b'"ok":false' in self._rest:
            raise RuntimeError(f"an answer is an error: {self._rest!r}")
        *lines, self._rest = self._rest.split(b"\n")
        return len(lines)


class SocketClient(Client):
    """The same over WebSocket: a handshake, then ``window`` messages in flight."""

    def __init__(
        self, target: Target, path: str, window: int, next_bytes: Callable[[], bytes | None], done: asyncio.Event
    ) -> None:
        super().__init__(next_bytes, done)
        self._handshake = target.request("GET", path).replace(
            b"content-length: 0",
            b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        self._window = window
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # as above
        self._transport.write(self._handshake)

    def answers(self) -> int:
        if not self._is_open:
            head, mark, self._rest = self._rest.partition(b"\r\n\r\n")
            assert mark and head.startswith(b"HTTP/1.1 101"), head  # noqa: PT018  # both say the same
            self._is_open = True
            return self._window
        count, self._rest = messages(self._rest)
        return count


def messages(data: bytes) -> tuple[int, bytes]:
    """How many whole messages a server has sent here, and what is left."""
    at = count = 0
    while at + 2 <= len(data):
        size, head = data[at + 1] & 0x7F, 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        if at + head + size > len(data):
            break
        at += head + size
        count += 1
    return count, data[at:]


def message(text: bytes) -> bytes:
    """A text message of a client; its mask is zero, so that it reads as it was."""
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + text


def posts(target: Target, path: str, bodies: Sequence[bytes], *, connections: int, count: int) -> float:
    """Seconds that ``count`` POSTs take over ``connections`` connections."""
    requests = [target.request("POST", path, body) for body in bodies]
    return uvloop.run(_one_each(target, Client, requests, connections, count))


def line_requests(path: Path, requests: Sequence[bytes], *, connections: int, count: int) -> float:
    """The same for lines of the wire protocol."""
    return uvloop.run(_one_each(UnixTarget(str(path)), LineClient, requests, connections, count))


async def _one_each(
    target: Target | UnixTarget, kind: type[Client], requests: Sequence[bytes], connections: int, count: int
) -> float:
    """Every connection has one request in flight."""
    asked = 0

    def next_bytes() -> bytes | None:
        nonlocal asked
        asked += 1
        return requests[asked % len(requests)] if asked <= count else None

    dones = [asyncio.Event() for _ in range(connections)]
    return await _timed(target, [partial(kind, next_bytes, done) for done in dones], dones)


def socket_requests(target: Target, path: str, texts: Sequence[bytes], *, window: int, count: int) -> float:
    """Seconds that ``count`` requests take over one WebSocket, ``window`` in flight."""
    frames = [message(text) for text in texts]

    async def run() -> float:
        asked = 0

        def next_bytes() -> bytes | None:
            nonlocal asked
            asked += 1
            return frames[asked % len(frames)] if asked <= count else None

        done = asyncio.Event()
        return await _timed(target, [lambda: SocketClient(target, path, window, next_bytes, done)], [done])

    return uvloop.run(run())


def chunks(target: Target, request: bytes, *, connections: int) -> float:
    """Seconds until as many streams are read to their ends."""

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        _refuse_failure(head)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            tail = (tail + await reader.read(1 << 18))[-5:]
        writer.close()

    async def run() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(read() for _ in range(connections)))
        return time.perf_counter() - began

    return uvloop.run(run())


async def _timed(
    target: Target | UnixTarget, clients: Sequence[Callable[[], Client]], dones: Sequence[asyncio.Event]
) -> float:
    began = time.perf_counter()
    opened = [await target.open(client) for client in clients]
    for done in dones:
        await done.wait()
    took = time.perf_counter() - began
    if any(client.is_lost for _, client in opened):
        raise RuntimeError("a connection was lost, or an answer was an error")
    for transport, _ in opened:
        transport.abort()
    return took


def _refuse_failure(head: bytes) -> None:
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(f"an answer is an error: {head!r}")
