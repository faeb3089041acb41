"""The limiter against what it promises: rate on the average, burst at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.resilience import limiter
from ksi.resilience.limiter import RateLimiter, RateLimiters

ROUNDING = 1e-6
"""Seconds: far below the shortest interval used here, far above the error of adding some hundred floats."""

rates = st.floats(min_value=0.1, max_value=10_000.0)
bursts = st.integers(min_value=1, max_value=50)
pauses = st.lists(st.floats(min_value=0.0, max_value=2.0), max_size=200)


def test_a_burst_is_admitted_at_once_and_not_one_more() -> None:
    limited = RateLimiter(10.0, 3)
    assert [limited.admit(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limited.admit(5.0) == pytest.approx(0.1)


@given(rates, bursts, pauses)
def test_no_stretch_of_time_admits_more_than_the_burst_and_its_share_of_the_rate(
    rate: float, burst: int, waits: list[float]
) -> None:
    limited, now, admitted = RateLimiter(rate, burst), 0.0, []
    for wait in waits:
        now += wait
        if limited.admit(now) == 0.0:
            admitted.append(now)
    for first, start in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= burst + (admitted[last] - start + ROUNDING) * rate


@given(rates, bursts, pauses)
def test_whoever_waits_as_told_is_admitted(rate: float, burst: int, waits: list[float]) -> None:
    limited, now = RateLimiter(rate, burst), 0.0
    for wait in waits:
        now += wait
        told = limited.admit(now)
        if told > 0.0:
            now += told + ROUNDING
            assert limited.admit(now) == 0.0


@given(rates, bursts)
def test_a_refusal_costs_nothing(rate: float, burst: int) -> None:
    limited = RateLimiter(rate, burst)
    for _ in range(burst):
        limited.admit(0.0)
    assert limited.admit(0.0) == limited.admit(0.0) > 0.0


def test_a_limit_that_admits_nobody_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        RateLimiter(0.0, 1)


def test_only_idle_names_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "NAMES_MAX", 2)
    limiters = RateLimiters()
    busy = limiters.add("busy", RateLimiter(1.0, 1), now=0.0)
    busy.admit(10.0)
    limiters.add("idle", RateLimiter(1.0, 1), now=10.0)
    limiters.add("new", RateLimiter(1.0, 1), now=10.0)
    assert limiters.get("busy") is busy
    assert limiters.get("idle") is None
    assert len(limiters) == 2
