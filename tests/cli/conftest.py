"""Homes with and without a daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Cli

COUNTDOWN = '''
import asyncio
from collections.abc import AsyncIterator

from ksi import AsyncPlugin, End, stream


class Countdown(AsyncPlugin):
    name = "countdown"

    @stream("countdown:run")
    async def run(self, start: int, waits: bool = False) -> AsyncIterator[int | End[str]]:
        """Counts down, and waits where it is told to."""
        try:
            for number in range(start, 0, -1):
                yield number
            if waits:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield End("held")
        yield End("lift-off")
'''


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Cli]:
    """A home in which no daemon runs yet."""
    cli = Cli(tmp_path / "home")
    yield cli
    cli("stop", "-q")


@pytest.fixture(scope="module")
def ksi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A home with a daemon that has a plugin which streams."""
    directory = tmp_path_factory.mktemp("cli")
    plugin = directory / "countdown.py"
    plugin.write_text(COUNTDOWN)
    cli = Cli(directory / "home")
    started = cli("start", "--plugin", str(plugin), "--set", "store.durability=normal")
    assert started.returncode == 0, started.stderr
    yield cli
    assert cli("stop").returncode == 0
