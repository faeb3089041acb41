"""Microseconds and moments are one and the same."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.clock import SystemClock, microseconds, utc

LAST_US = microseconds(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC))
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.integers(0, LAST_US))
def test_microseconds_come_back_from_a_moment(time_us: int) -> None:
    assert microseconds(utc(time_us)) == time_us
    assert utc(time_us).tzinfo is UTC


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=zones))  # noqa: DTZ001  # the strategy adds the zone
def test_a_moment_comes_back_from_its_microseconds(when: datetime) -> None:
    assert utc(microseconds(when)) == when


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no zone"):
        microseconds(datetime(2026, 1, 1))  # noqa: DTZ001  # that is what is tested


def test_the_system_s_clock_tells_microseconds_and_seconds() -> None:
    clock = SystemClock()
    assert abs(utc(clock.time_us()) - datetime.now(UTC)) < timedelta(seconds=10)
    assert clock.monotonic() <= clock.monotonic()
