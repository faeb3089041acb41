"""Handlers with nested commands, in a process that ends between two of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.audit import Books
from tests.daemon.conftest import DEADLY, LEDGER
from tests.daemon.deadly import DIE, EXIT_CODE, STEPS

AT_ONCE = 4


async def chains_killed_between_their_steps(home: Path, *, kills: int, seed: int) -> None:
    """Some chains at once, ``kills`` times; one of them ends the process after a random step of it."""
    random = Random(seed)
    async with DaemonProcess(home, LEDGER, DEADLY) as daemon, daemon.client() as client:
        for kill in range(kills):
            numbers = range(kill * AT_ONCE, (kill + 1) * AT_ONCE)
            (home / DIE).write_text(f"{random.choice(numbers)}.{random.randrange(STEPS)}")
            asked = [asyncio.create_task(client.request("deadly:chain", number=number)) for number in numbers]
            assert await daemon.ended() == EXIT_CODE
            await daemon.start()
            assert await asyncio.gather(*asked) == [STEPS] * AT_ONCE
        assert await daemon.stop() == 0
    books = await Books.of(daemon.home)
    books.check_whole()
    stands = Counter(fact.data["name"] for fact in books.facts if fact.name == "counter:was_added")
    assert stands == {f"{number}.{step}": 1 for number in range(kills * AT_ONCE) for step in range(STEPS)}
