"""Starting a real daemon, and going on when it was killed."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksi.client.client import EventClient
from ksi.client.spawn import is_answering, start_daemon
from ksi.core.errors import ConfigError
from ksi.core.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def started(home: Home) -> Iterator[list[int]]:
    """Pids of daemons, which the test may add to; killed at the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def start(home: Home) -> int:
    pid = start_daemon(home)
    assert pid is not None
    return pid


async def test_a_subscription_goes_on_with_the_daemon_that_follows_a_killed_one(home: Home, started: list[int]) -> None:
    async with EventClient(home=home.path, start=True) as client:
        killed = (await client.request("system:health"))["pid"]
        async with client.subscribe("state:", after="start") as events:
            await client.request("state:set", key="a", value=1)
            assert (await anext(events)).data["data"]["key"] == "a"
            os.kill(killed, signal.SIGKILL)
            started.append(await asyncio.to_thread(_started_again, home))
            await client.request("state:set", key="b", value=2)
            assert (await anext(events)).data["data"]["key"] == "b"


async def test_a_subscription_goes_on_with_the_daemon_after_a_stopped_one(home: Home, started: list[int]) -> None:
    client = EventClient(home=home.path, start=True)
    async with client, client.subscribe("state:", after="start") as events:
        await client.request("state:set", key="a", value=1)
        assert (await anext(events)).data["data"]["key"] == "a"
        await client.request("system:shutdown")
        started.append(await asyncio.to_thread(_started_again, home))
        await client.request("state:set", key="b", value=2)
        assert (await anext(events)).data["data"]["key"] == "b"


def _started_again(home: Home) -> int:
    while is_answering(home.socket):  # the system closes the killed daemon's socket
        pass
    return start(home)


def test_a_daemon_that_answers_is_not_started_twice(home: Home, started: list[int]) -> None:
    started.append(start(home))
    assert start_daemon(home) is None


def test_a_daemon_that_can_not_start_says_why(home: Home) -> None:
    home.path.mkdir()
    home.config_file.write_text("this is no toml")
    with pytest.raises(ConfigError, match=r"ksi\.toml"):
        start_daemon(home)
