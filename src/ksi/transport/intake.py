"""What comes into a connection: lines, taken in turns, and the moments at which reading pauses."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from ksi.transport.budget import Budget, Limits
from ksi.wire.splitter import Line, Splitter

Pause = Literal["lines", "budget", "write"]
STALLS: frozenset[Pause] = frozenset({"budget", "write"})
"""Pauses that others must end; ``lines`` ends by itself within some turns."""


class Intake:
    """Splits what arrives and hands it out, a turn's worth in each turn of the loop."""

    def __init__(
        self, limits: Limits, budget: Budget, take: Callable[[deque[Line]], None], served: Callable[[], None]
    ) -> None:
        """``take`` serves a turn's lines from the front of what it is given; ``served`` is the end of the turn."""
        self._limits = limits
        self._budget = budget
        self._take = take
        self._served = served
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._splitter = Splitter(limits.frame_bytes_max)
        self._lines: deque[Line] = deque()
        self._arrived = 0  #: bytes that came since there was no line waiting
        self._counted = 0  #: bytes of an incomplete line that the budget knows of
        self._is_scheduled = False
        self._pauses: set[Pause] = set()
        self._stall: asyncio.TimerHandle | None = None

    def open(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Drop what waits."""
        self._transport = None
        self._lines.clear()
        self._splitter.drop()  # a closed connection is a circle of objects, which the collector may be long in finding
        self._budget.forget(self._room)
        self._count(0)
        self._watch_stall()

    @property
    def is_empty(self) -> bool:
        return not self._lines

    @property
    def has_rest(self) -> bool:
        """Whether a line was begun and not ended."""
        return self._splitter.size > 0

    def feed(self, data: bytes) -> None:
        self._lines.extend(self._splitter.feed(data))
        if self._splitter.size or self._counted:
            self._count(max(0, self._splitter.size - self._limits.inbound_bytes_free))
        if not self._is_scheduled:
            self._serve()
        if self._lines:
            self._arrived += len(data)
            if self._arrived > self._limits.inbound_bytes_free:
                self.pause("lines")

    def pause(self, reason: Pause) -> None:
        if not self._pauses and self._transport is not None:
            self._transport.pause_reading()
        self._pauses.add(reason)
        self._watch_stall()

    def resume(self, reason: Pause) -> None:
        if reason not in self._pauses:
            return
        self._pauses.discard(reason)
        if not self._pauses and self._transport is not None:
            self._transport.resume_reading()
        if reason == "write" and self._lines and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._serve)
        self._watch_stall()

    def _serve(self) -> None:
        self._is_scheduled = False
        if "write" in self._pauses:  # what is asked would be answered into memory
            self._served()
            return
        self._take(self._lines)
        if self._lines:
            self._is_scheduled = True
            self._loop.call_soon(self._serve)
        else:
            self._arrived = 0
            self.resume("lines")
        self._served()

    def _count(self, size: int) -> None:
        self._budget.change(size - self._counted)
        self._counted = size
        if size and self._budget.is_full:
            self._budget.when_room(self._room)
            self.pause("budget")

    def _room(self) -> None:
        self.resume("budget")

    def _watch_stall(self) -> None:
        is_stalled = self._transport is not None and not STALLS.isdisjoint(self._pauses)
        if is_stalled and self._stall is None:
            self._stall = self._loop.call_later(self._limits.stall_timeout, self._abort)
        elif not is_stalled and self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
