"""The examples run as they stand: plugins in a real daemon, programs as processes beside it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    plugins = [EXAMPLES / name for name in ("hello.py", "countdown.py", "tally.py")]
    async with DaemonProcess(tmp_path, *plugins) as running:
        yield running


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[EventClient]:
    async with daemon.client() as connected:
        yield connected


async def test_hello_greets_and_remembers_it(client: EventClient) -> None:
    assert await client.request("hello:preview", who="Ada") == "Hello, Ada!"
    assert await client.request("hello:greet", who="Ada") == "Hello, Ada!"
    shown = await client.request("entity:show", entity="greeting/Ada")
    assert shown["state"]["latest"] == {"who": "Ada"}


async def test_the_countdown_streams_and_can_be_held(client: EventClient) -> None:
    async with client.stream("countdown:run", {"from": 3, "pause": 0}) as stream:
        assert [chunk.data["seconds"] async for chunk in stream] == [3, 2, 1]
    assert stream.end == "lift-off"
    async with client.stream("countdown:run", {"from": 3, "pause": 3600}) as held:
        await anext(held)
        held.cancel()
        async for _ in held:
            pass
    assert held.end == "held at 3"


async def test_the_tally_counts_facts_also_over_a_kill(daemon: DaemonProcess, client: EventClient) -> None:
    async with client.subscribe("tally:", after="start") as counted:
        await client.request("state:set", key="a", value=1)
        await anext(counted)
        await daemon.kill()
        await daemon.start()
        await client.request("state:set", key="b", value=2)
        await anext(counted)
    assert await client.request("tally:show") == {"state:value_was_set": 2}


@pytest.mark.parametrize("program", ["client.py", "two_agents.py"])
async def test_a_program_runs_beside_a_daemon(daemon: DaemonProcess, program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / program),
        env={**os.environ, "KSI_HOME": str(daemon.home.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert output
