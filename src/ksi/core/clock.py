"""Time comes in: nobody in KSI asks the system for it but :class:`SystemClock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where times come from; tests give their own."""

    def time_us(self) -> int:
        """Wall-clock time, microseconds since 1970. May go back."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""


class SystemClock:
    """The machine's own clock."""

    def time_us(self) -> int:
        return time.time_ns() // 1000

    monotonic = staticmethod(time.monotonic)


def utc(time_us: int) -> datetime:
    """The UTC-aware moment that ``time_us`` (microseconds since 1970) stands for."""
    return _EPOCH + timedelta(microseconds=time_us)  # a float of seconds has no room for microseconds after 2242


def microseconds(when: datetime) -> int:
    """Microseconds since 1970. A moment without a time zone is refused: its meaning would depend on the machine."""
    if when.tzinfo is None:
        raise ValueError("the time has no zone: give one, for example datetime.now(UTC)")
    delta = when - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
