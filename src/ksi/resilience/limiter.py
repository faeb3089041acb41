"""Rates: how often somebody may do something.

The generic cell rate algorithm keeps one number for each name: the moment at which the name would have its full burst
again. A token bucket says the same with two numbers and a refill.
"""

from __future__ import annotations

NAMES_MAX = 10_000
"""Names whose moments are remembered before the idle ones are let go."""


class RateLimiter:
    """Admits ``rate_per_second`` on the average, and up to ``burst`` at once."""

    __slots__ = ("_full_at", "_interval", "_tolerance", "burst", "rate_per_second")

    def __init__(self, rate_per_second: float, burst: int) -> None:
        if rate_per_second <= 0 or burst < 1:
            raise ValueError(f"a rate is more than 0 and a burst at least 1, not {rate_per_second} and {burst}")
        self.rate_per_second = rate_per_second
        self.burst = burst
        self._interval = 1.0 / rate_per_second
        self._tolerance = (burst - 1) * self._interval
        self._full_at = 0.0

    def admit(self, now: float) -> float:
        """Take one; the answer is 0.0, or the seconds until one may be taken (then nothing was).

        ``now`` is in seconds and never goes back.
        """
        full_at = self._full_at
        if full_at <= now:  # the whole burst is there
            self._full_at = now + self._interval
            return 0.0
        wait = full_at - now - self._tolerance
        if wait > 0.0:
            return wait
        self._full_at = full_at + self._interval
        return 0.0

    def is_full(self, now: float) -> bool:
        """Whether the whole burst is there: then it can not be told from a new one."""
        return self._full_at <= now


class RateLimiters:
    """A limiter for each name. Bounded: beyond :data:`NAMES_MAX` names those that are full are forgotten."""

    def __init__(self) -> None:
        self._limiters: dict[str, RateLimiter] = {}

    def get(self, name: str) -> RateLimiter | None:
        return self._limiters.get(name)

    def add(self, name: str, limiter: RateLimiter, now: float) -> RateLimiter:
        """Remember ``limiter``."""
        if len(self._limiters) >= NAMES_MAX:
            self._limiters = {known: held for known, held in self._limiters.items() if not held.is_full(now)}
        self._limiters[name] = limiter
        return limiter

    def __len__(self) -> int:
        return len(self._limiters)
