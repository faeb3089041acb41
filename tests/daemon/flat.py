"""A daemon that serves for long needs no more memory and no more descriptors than at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.conftest import LEDGER, MIXED

AT_ONCE = 500
OPENED_LATER = 4
"""Descriptors that the log opens when it is first read in one more thread; a leak would be one for each connection."""
Ask = Callable[[EventClient, int], Any]


async def growth(home: Path, ask: Ask, *, warm_up: int, requests: int) -> int:
    """Bytes that ``requests`` add to the memory of a daemon that has answered ``warm_up`` before.

    Each 500 go over a connection of their own; none of these may leave a descriptor.
    """
    async with DaemonProcess(home, LEDGER, MIXED) as daemon:
        await _rounds(daemon, ask, warm_up)
        memory, descriptors = daemon.resident_bytes(), daemon.descriptors()
        await _rounds(daemon, ask, requests)
        assert daemon.descriptors() <= descriptors + OPENED_LATER
        return daemon.resident_bytes() - memory


async def _rounds(daemon: DaemonProcess, ask: Ask, requests: int) -> None:
    for first in range(0, requests, AT_ONCE):
        async with daemon.client() as client:
            await asyncio.gather(*(ask(client, number) for number in range(first, first + AT_ONCE)))
    async with daemon.client() as client:  # behind the ends of the other connections
        await client.request("system:health")


async def read(client: EventClient, number: int) -> None:
    """Queries of every kind; a tenth fails."""
    match number % 10:
        case 0:
            await client.try_request("mixed:none")
        case 1 | 2:
            await client.request("mixed:inline", number=number)
        case _:
            await client.request("mixed:turns", number=number)


async def read_or_command(client: EventClient, number: int) -> None:
    """A fifth are commands."""
    if number % 5:
        await read(client, number)
    else:
        await client.request("counter:add", name=f"c{number % 1_000}")
