"""One event to many subscribers, each with a connection of its own, beside ``websockets.broadcast``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import uvloop

from ksi.bench.http import sampled, servers
from ksi.bench.http_load import Client, SocketClient, Target, message, messages
from ksi.bench.measure import Contestant, Row, rival
from ksi.bench.plugin import item

SUBSCRIBERS = (100, 1_000)
IN_FLIGHT = 16
CREDIT = 65_536
TARGET = 0.5
HELLO = message(b'{"hello":1}')
DATA = b"\ndata: "
FACT = "bench:item_was_put"


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    """Rows over running servers; ``count`` is of deliveries."""
    with servers(directory, ["--broadcast"]) as (bare, bare_at, ksi, ksi_at):

        def row(subscribers: int) -> Row:
            events = max(IN_FLIGHT, count // subscribers)
            contestants = [
                rival(
                    "websockets.broadcast",
                    lambda: sampled(bare, lambda: broadcast(bare_at, subscribers, events), events * subscribers),
                ),
                Contestant(
                    "WebSocket, event:subscribe",
                    lambda: sampled(ksi, lambda: subscribed(ksi_at, subscribers, events), events * subscribers),
                    TARGET,
                ),
                Contestant(
                    "GET /v1/subscribe, SSE",
                    lambda: sampled(ksi, lambda: followed(ksi_at, subscribers, events), events * subscribers),
                ),
            ]
            return Row(f"fanout: deliveries to {subscribers:,} subscribers", contestants)

        yield [row(subscribers) for subscribers in SUBSCRIBERS]


class Hearers:
    """Counts what all of them heard."""

    def __init__(self, subscribers: int, events: int) -> None:
        self._left = subscribers * events
        self._not_ready = subscribers
        self.ready, self.done = asyncio.Event(), asyncio.Event()

    def is_ready(self) -> None:
        self._not_ready -= 1
        if not self._not_ready:
            self.ready.set()

    def heard(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self.done.set()


class SocketHearer(SocketClient):
    """A subscriber over WebSocket; the first message that it gets says that it is heard of."""

    def __init__(self, target: Target, path: str, hearers: Hearers, *frames: bytes) -> None:
        super().__init__(target, path, len(frames), iter(frames).__next__, asyncio.Event())
        self.hearers = hearers
        self._is_ready = False

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._is_open:
            self.ask(self.answers())
        count, self._rest = messages(self._rest)
        if count and not self._is_ready:
            self._is_ready = True
            self.hearers.is_ready()
            count -= 1
        self.hearers.heard(count)


class StreamHearer(Client):
    """A subscriber over server-sent events."""

    def __init__(self, target: Target, hearers: Hearers, after: str) -> None:
        request = target.request("GET", f"/v1/subscribe?pattern={FACT}&after={after}")
        super().__init__(iter([request]).__next__, asyncio.Event())
        self._hearers = hearers
        self._is_ready = False

    def data_received(self, data: bytes) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._hearers.is_ready()
        heard = self._rest + data
        self._rest = heard[1 - len(DATA) :]  # the next mark may begin here
        self._hearers.heard(heard.count(DATA))


def broadcast(at: Target, subscribers: int, events: int) -> float:
    """Seconds until all have heard all."""
    said = [message(msgspec.json.encode({"id": 1, "seq": number, "data": item(number)})) for number in range(events)]

    async def run() -> float:
        hearers = Hearers(subscribers, events)
        clients = [SocketHearer(at, "/", hearers) for _ in range(subscribers)]
        return await _heard(at, clients, hearers, SocketHearer(at, "/", Hearers(1, 1)), said)

    return uvloop.run(run())


def subscribed(at: Target, subscribers: int, events: int) -> float:
    """The same over the wire protocol: each event is a command, on disk before anybody hears of it."""
    data = {"pattern": FACT, "after": _head(at)}
    frame = {"id": 1, "event": "event:subscribe", "data": data, "stream": True, "credit": CREDIT}

    async def run() -> float:
        hearers = Hearers(subscribers, events)
        subscribe = message(msgspec.json.encode(frame))
        clients = [SocketHearer(at, "/v1/ws", hearers, HELLO, subscribe) for _ in range(subscribers)]
        return await _heard(at, clients, hearers, _speaker(at), _puts(events))

    return uvloop.run(run())


def followed(at: Target, subscribers: int, events: int) -> float:
    """The same as server-sent events."""
    after = _head(at)

    async def run() -> float:
        hearers = Hearers(subscribers, events)
        clients = [StreamHearer(at, hearers, after) for _ in range(subscribers)]
        return await _heard(at, clients, hearers, _speaker(at), _puts(events))

    return uvloop.run(run())


def _head(at: Target) -> str:
    """Where the log ends now: who subscribes after it hears all that comes, however late its subscription begins."""
    connection = HTTPConnection("127.0.0.1", at.port)
    connection.request("GET", "/v1/events/system:health", headers={"Authorization": f"Bearer {at.token}"})
    head = msgspec.json.decode(connection.getresponse().read())["head"]
    connection.close()
    return f"@{head}" if head else "start"


def _speaker(at: Target) -> SocketHearer:
    return SocketHearer(at, "/v1/ws", Hearers(1, 1 << 60), HELLO)


def _puts(events: int) -> list[bytes]:
    frames = ({"id": number, "event": "bench:put", "data": item(number)} for number in range(events))
    return [message(msgspec.json.encode(frame)) for frame in frames]


async def _heard(
    at: Target, clients: Sequence[Client], hearers: Hearers, speaker: SocketHearer, said: Sequence[bytes]
) -> float:
    """Connect all, then let ``speaker`` say everything; seconds from its first word to the last that was heard."""
    loop = asyncio.get_running_loop()
    transports = []
    for client in (*clients, speaker):
        opened: tuple[asyncio.Transport, Client] = await loop.create_connection(lambda: client, "127.0.0.1", at.port)  # noqa: B023  # called here
        transports.append(opened[0])
    await hearers.ready.wait()
    await speaker.hearers.ready.wait()
    began = time.perf_counter()
    for number in range(0, len(said), IN_FLIGHT):
        transports[-1].write(b"".join(said[number : number + IN_FLIGHT]))
        await asyncio.sleep(0)
    await hearers.done.wait()
    took = time.perf_counter() - began
    for transport in transports:
        transport.abort()
    return took
