"""A crowd that means no good on the Unix socket: it holds little, others are served, and nothing of it is left."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess

OPENED_LATER = 4
"""Descriptors that a daemon opens at its first use of something."""
SERVED_WITHIN = 20.0
HALF = b'{"id":1,"event":"mixed:turns","data":{"number":"' + b"x" * 60_000
ENDLESS = b'{"id":1,"event":"mixed:count","data":{"name":"a","to":99999,"size":1000},"stream":true,"credit":65536}\n'
LARGE = b'{"id":1,"event":"mixed:large","data":{"size":500000}}\n'


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[EventClient]:
    async with daemon.client() as client:
        yield client


@contextmanager
def strangers(daemon: DaemonProcess, count: int) -> Iterator[list[socket.socket]]:
    """So many sockets, from which nobody reads."""
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for each in opened:
            each.connect(str(daemon.home.socket))
            each.setblocking(False)
        yield opened


async def say(stranger: socket.socket, said: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(stranger, said)


async def served(client: EventClient) -> None:
    async with asyncio.timeout(SERVED_WITHIN):
        assert await asyncio.gather(*(client.request("mixed:turns", number=n) for n in range(100))) == list(range(100))


async def until(client: EventClient, has_come: Callable[[], bool]) -> None:
    """Others are served meanwhile."""
    await served(client)
    async with asyncio.timeout(SERVED_WITHIN):
        while not has_come():
            await served(client)


CROWDS = {
    "silence": (b"", 1_000, 16),
    "half a frame": (HALF, 1_000, 96),
    "garbage": (b"\xff\xfe\x00\n" * 100, 1_000, 96),
    "a frame without end": (b"x" * (3 << 20), 20, 96),
    "a stream that is not read": (ENDLESS, 50, 1_600),
    "answers that are not read": (LARGE * 100, 20, 8 << 10),
}
"""What each of them says, how many they are, and the KiB that the daemon may hold for each."""


async def test_a_crowd_holds_little_and_others_are_served(daemon: DaemonProcess, client: EventClient) -> None:
    for name, (said, count, kib_max) in CROWDS.items():
        await served(client)
        memory, descriptors = daemon.resident_bytes(), daemon.descriptors()
        with strangers(daemon, count) as crowd:
            await asyncio.gather(*(say(each, said) for each in crowd))
            await until(client, lambda: daemon.descriptors() >= descriptors + count)  # noqa: B023 - called in this turn
            held = daemon.resident_bytes() - memory
            assert held < count * kib_max * 1024 + (8 << 20), f"{name}: {held / count / 1024:.0f} KiB for each"
        await until(client, lambda: daemon.descriptors() <= descriptors + OPENED_LATER)  # noqa: B023 - as above


async def test_a_hundred_thousand_requests_wait_for_whoever_does_not_read_their_answers(
    daemon: DaemonProcess, client: EventClient
) -> None:
    count = 100_000
    frames = (b'{"id":%d,"event":"mixed:turns","data":{"number":%d}}\n' % (n, n % 7) for n in range(count))
    await served(client)
    memory = daemon.resident_bytes()
    with strangers(daemon, 1) as (stranger,):
        saying = asyncio.create_task(say(stranger, b"".join(frames)))
        await served(client)
        assert not saying.done()
        assert daemon.resident_bytes() - memory < 24 << 20
        answers = bytearray()
        async with asyncio.timeout(60):
            while answers.count(b"\n") < count:
                answers += await asyncio.get_running_loop().sock_recv(stranger, 1 << 22)
    found = {answer["id"]: answer["data"] for answer in map(msgspec.json.decode, answers.splitlines())}
    assert found == {number: number % 7 for number in range(count)}
