"""A read model that is folded behind, in a daemon that is killed: no fact is lost, none is counted twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

from ksi.client.client import EventClient
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.tally import POISON

TALLY = Path(__file__).with_name("tally.py")


class Setting:
    """Sets keys, many at a time, and counts what was answered."""

    def __init__(self, client: EventClient, random: Random) -> None:
        self._client = client
        self._random = random
        self.times: Counter[str] = Counter()
        self.poisons = 0

    async def some(self) -> None:
        chosen = [(f"k{self._random.randrange(20)}", self._random.random() < 0.01) for _ in range(200)]
        await asyncio.gather(*(self._one(key, poisoned=poisoned) for key, poisoned in chosen))

    async def _one(self, key: str, *, poisoned: bool) -> None:
        await self._client.request("state:set", key=key, value=POISON if poisoned else 1)
        self.times[key] += not poisoned
        self.poisons += poisoned


async def test_a_read_model_behind_is_right_after_each_kill(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path / "home", TALLY) as daemon, daemon.client() as client:
        setting = Setting(client, Random(5))
        for _ in range(3):
            for _ in range(3):
                await setting.some()
            await daemon.kill()
            await daemon.start()
            (newest,) = (await client.request("monitor:get_events", limit=1, event_patterns=["state:value_was_set"]))[
                "events"
            ]
            status = await client.request("projection:status", name="tally", position=newest["position"])
            assert await client.request("tally:all") == dict(setting.times)
            assert (status["state"], status["parked"]) == ("live", setting.poisons)
        rebuilt = await client.request("projection:rebuild", name="tally")
    assert (rebuilt["added"], rebuilt["removed"], rebuilt["changed"]) == (0, 0, 0)
