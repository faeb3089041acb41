"""Thousands of requests at once, and the keys under which they run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ksi.core.errors import PartitionDeadlockError
from ksi.core.result import Failure
from ksi.testing.daemon_process import DaemonProcess

REQUESTS = 10_000
KEYS = 32
READ_LIMIT = 1 << 24


class Line:
    """One connection that speaks lines and holds back nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frames: list[dict[str, Any]]) -> None:
        self._writer.write(b"".join(msgspec.json.encode(frame) + b"\n" for frame in frames))
        await self._writer.drain()

    async def answers(self, count: int) -> AsyncIterator[dict[str, Any]]:
        async with asyncio.timeout(90):
            for _ in range(count):
                yield msgspec.json.decode(await self._reader.readuntil(b"\n"))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.fixture
async def line(daemon: DaemonProcess) -> AsyncIterator[Line]:
    line = Line(*await asyncio.open_unix_connection(daemon.home.socket, limit=READ_LIMIT))
    yield line
    await line.close()


def request(number: int) -> dict[str, Any]:
    """The kinds in turn; a tenth of them is keyed."""
    match number % 10:
        case 0:
            return {"event": "mixed:keyed", "data": {"key": f"k{number // 10 % KEYS}", "number": number}}
        case 1:
            return {"event": "mixed:slow", "data": {"number": number}}
        case 2:
            return {"event": "mixed:thread", "data": {"number": number}}
        case 3:
            return {"event": "counter:add", "data": {"name": "all", "amount": 0}}
        case 4 | 5:
            return {"event": "mixed:turns", "data": {"number": number}}
        case _:
            return {"event": "mixed:inline", "data": {"number": number}}


async def test_ten_thousand_requests_at_once_on_one_connection_are_all_answered_and_keys_keep_their_order(
    daemon: DaemonProcess, line: Line
) -> None:
    sending = asyncio.create_task(line.send([{"id": number, **request(number)} for number in range(REQUESTS)]))
    answers = {answer["id"]: answer async for answer in line.answers(REQUESTS)}
    await sending
    expected = {number: 0 if number % 10 == 3 else number for number in range(REQUESTS)}
    assert {number: answer.get("data", answer) for number, answer in answers.items()} == expected
    async with daemon.client() as client:
        order = await client.request("mixed:order")
    sent: dict[str, list[int]] = defaultdict(list)
    for number in range(0, REQUESTS, 10):
        sent[f"k{number // 10 % KEYS}"].append(number)
    assert order == sent


async def test_two_clients_that_read_and_set_under_one_key_lose_no_step(daemon: DaemonProcess) -> None:
    async with daemon.client() as one, daemon.client() as other:
        answers = []
        for _ in range(2):  # a key's queue holds 1,024
            answers += await asyncio.gather(
                *(client.request("mixed:tally") for _ in range(250) for client in (one, other))
            )
        assert sorted(answers) == list(range(1, 1_001))
        assert (await one.request("state:get", key="tally"))["value"] == 1_000


async def test_a_key_is_lent_to_the_requests_that_its_holder_awaits(daemon: DaemonProcess) -> None:
    async with daemon.client() as client:
        assert await client.request("mixed:nested", key="a", depth=10) == 10


async def test_a_circle_of_keys_is_named_and_the_other_side_goes_on(daemon: DaemonProcess) -> None:
    async with daemon.client() as client:
        results = await asyncio.gather(
            client.try_request("mixed:cross", mine="a", other="b"),
            client.try_request("mixed:cross", mine="b", other="a"),
        )
    (error,) = [result.error for result in results if isinstance(result, Failure)]
    assert isinstance(error, PartitionDeadlockError)
    assert set(error.cycle) == {"a", "b"}
