"""A plugin that measures how late the daemon's loop is: how long a callback that was due had to wait."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

import msgspec

from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin

BEAT = 0.005
KEPT_MAX = 20_000


class Lag(msgspec.Struct, frozen=True):
    """Seconds, since it was last asked for."""

    median: float
    max: float


class LoopLag(AsyncPlugin):
    """Beats, and is asked."""

    name = "bench_lag"

    async def initialize(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late: deque[float] = deque(maxlen=KEPT_MAX)
        self._wait()

    async def shutdown(self) -> None:
        self._timer.cancel()

    @query("bench:lag", inline=True)
    def lag(self) -> Lag:
        late, self._late = sorted(self._late) or [0.0], deque(maxlen=KEPT_MAX)
        return Lag(late[len(late) // 2], late[-1])

    def _wait(self) -> None:
        # Not the loop's own clock: uvloop's counts milliseconds, and stands still while a callback runs.
        self._timer = self._loop.call_later(BEAT, self._beat, perf_counter() + BEAT)

    def _beat(self, due: float) -> None:
        self._late.append(max(0.0, perf_counter() - due))
        self._wait()
