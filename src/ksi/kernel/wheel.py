"""Limits of time: one timer wheel for all of them.

An ``asyncio.timeout`` costs 7.8 µs a request; an entry in this wheel costs a tenth of a microsecond. The price
is precision: a limit fires up to one tick (10 ms) late, never early.
"""

from __future__ import annotations

import asyncio
import logging
from heapq import heappop, heappush
from typing import Protocol

TICK = 0.01
_log = logging.getLogger("ksi.kernel")


class Expirable(Protocol):
    """Whatever has a limit."""

    def expire(self) -> None:
        """The limit passed."""


class Wheel:
    """Calls ``expire`` on what was added, once its seconds have passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Expirable, None]] = {}  # in the order of addition
        self._ticks: list[int] = []  # a heap
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Expirable, seconds: float) -> int:
        """Let ``item`` expire after ``seconds``; the answer is what :meth:`remove` needs."""
        tick = int((self._loop.time() + max(seconds, 0.0)) / TICK) + 1
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
            heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._arm(tick)
        slot[item] = None
        return tick

    def remove(self, item: Expirable, tick: int) -> None:
        slot = self._slots.get(tick)
        if slot is not None:
            slot.pop(item, None)
            if not slot:
                slot.clear()  # a dict that was large stays so when it is emptied one by one: 48 MB at 20,000/s

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for slot in self._slots.values():
            slot.clear()  # one of them may be expiring right now
        self._slots.clear()
        self._ticks.clear()

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(tick * TICK, self._turn)

    def _turn(self) -> None:
        now = self._loop.time()
        while self._ticks and self._ticks[0] * TICK <= now:
            tick = heappop(self._ticks)
            self._expire(self._slots[tick])
            self._slots.pop(tick, None)
        if self._ticks:
            self._arm(self._ticks[0])

    @staticmethod
    def _expire(slot: dict[Expirable, None]) -> None:
        """One by one: what an earlier one removes does not expire any more."""
        while slot:
            item = next(iter(slot))
            del slot[item]
            try:
                item.expire()
            except Exception:  # noqa: BLE001  # one that fails must not keep the others from their end
                _log.exception("the limit of %r could not be enforced", item)
