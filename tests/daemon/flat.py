"""A daemon that serves for long needs no more memory, descriptors and tasks than at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.conftest import LEDGER, MIXED

AT_ONCE = 500
SAMPLES = 20
OPENED_LATER = 4
"""Descriptors that the log opens when it is first read in one more thread; a leak would be one for each connection."""
Ask = Callable[[EventClient, int], Any]


class Sample(msgspec.Struct, frozen=True):
    """What a daemon has, with nothing under way but the question; ``requests`` were answered before."""

    requests: int
    memory: int
    descriptors: int
    tasks: int


async def samples(home: Path, ask: Ask, *, requests: int) -> list[Sample]:
    """Twenty of them, the first after a twentieth. Each 500 requests go over a connection of their own."""
    async with DaemonProcess(home, LEDGER, MIXED) as daemon:
        taken = []
        for number in range(1, SAMPLES + 1):
            share = requests // SAMPLES
            await _rounds(daemon, ask, share * (number - 1), share * number)
            taken.append(await _sample(daemon, share * number))
    return taken


def growth(taken: list[Sample]) -> float:
    """Bytes of memory that 100,000 requests add, over the last 80 % of them: the slope of a line through the samples.

    Raises:
        AssertionError: Descriptors or tasks are more than they were there at first.
    """
    late = taken[len(taken) // 5 :]
    assert max(each.descriptors for each in late) <= late[0].descriptors + OPENED_LATER
    assert {each.tasks for each in late} == {late[0].tasks}
    middle = sum(each.requests for each in late) / len(late)
    across = sum((each.requests - middle) * each.memory for each in late)
    return 100_000 * across / sum((each.requests - middle) ** 2 for each in late)


async def _rounds(daemon: DaemonProcess, ask: Ask, first: int, last: int) -> None:
    for start in range(first, last, AT_ONCE):
        async with daemon.client() as client:
            await asyncio.gather(*(ask(client, number) for number in range(start, min(last, start + AT_ONCE))))


async def _sample(daemon: DaemonProcess, requests: int) -> Sample:
    async with daemon.client() as client:  # behind the ends of the other connections
        tasks = await client.request("mixed:tasks")
    return Sample(requests, daemon.resident_bytes(), daemon.descriptors(), tasks)


async def read(client: EventClient, number: int) -> None:
    """Queries of every kind; a tenth fails."""
    match number % 10:
        case 0:
            await client.try_request("mixed:none")
        case 1 | 2:
            await client.request("mixed:inline", number=number)
        case _:
            await client.request("mixed:turns", number=number)


async def everything(client: EventClient, number: int) -> None:
    """A fifth are commands, a twentieth streams, and half of these are cancelled."""
    match number % 20:
        case 1 | 6 | 11 | 16:
            await client.request("counter:add", name=f"c{number % 1_000}")
        case 3:
            await stream(client, f"s{number % 1_000}", is_cancelled=number % 40 == 3)
        case _:
            await read(client, number)


async def leaking(client: EventClient, number: int) -> None:
    """The same; one in a thousand leaves a task behind."""
    await (client.request("mixed:leak") if number % 1_000 == 0 else everything(client, number))


async def stream(client: EventClient, name: str, *, is_cancelled: bool) -> None:
    async with client.stream("mixed:count", name=name, to=12) as chunks:
        if is_cancelled:
            await anext(chunks)
            chunks.cancel()
        async for _ in chunks:
            pass
