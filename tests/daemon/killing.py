"""A daemon that is killed again and again while it works, and what must be true afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.audit import Books
from tests.daemon.conftest import LEDGER
from tests.daemon.load import under_load

START_SECONDS = 0.8
"""A start that is to be killed is killed within this time: about as long as it takes."""


async def killed_under_load(home: Path, *, kills: int, seed: int) -> int:
    """Kill it ``kills`` times at random moments; the number of commands that were answered."""
    random = Random(seed)
    async with DaemonProcess(home, LEDGER) as daemon:
        async with under_load(daemon, random) as (load, reader):
            for _ in range(kills):
                await load.answers(random.randrange(1, 200))
                await daemon.kill()
                if random.random() < 0.2:
                    await _killed_at_start(daemon, random)
                await daemon.start()
        assert await daemon.stop() == 0
    books = await Books.of(daemon.home)
    books.check_whole()
    books.check_answers(load.asked)
    books.check_order(load.asked)
    books.check_counters()
    books.check_reader(reader)
    books.check_world(home, load.asked)
    return len(load.asked)


async def _killed_at_start(daemon: DaemonProcess, random: Random) -> None:
    await daemon.spawn()
    await asyncio.sleep(random.uniform(0, START_SECONDS))  # the moment of the kill; nothing is waited for
    await daemon.kill()
