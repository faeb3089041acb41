"""A streaming plugin: chunks are on disk before they are seen, a slow reader slows it, a cancel leaves what there is.

ksi plugin load examples/countdown.py
ksi send countdown:run from:=5
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from ksi import AsyncPlugin, End, stream


class Countdown(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where to begin, and how long each step takes (seconds)."""

    start: int = msgspec.field(name="from")
    pause: float = 0.1


class Left(msgspec.Struct, frozen=True):
    """One step."""

    seconds: int


class CountdownPlugin(AsyncPlugin):
    """Counts down."""

    name = "countdown"

    @stream("countdown:run")
    async def run(self, countdown: Countdown) -> AsyncIterator[Left | End[str]]:
        """Count down from a number; cancelled, it says how far it came."""
        left = countdown.start
        try:
            while left > 0:
                yield Left(left)
                await asyncio.sleep(countdown.pause)
                left -= 1
        except asyncio.CancelledError:
            yield End(f"held at {left}")
            return
        yield End("lift-off")
