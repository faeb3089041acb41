"""The timer wheel: limits pass on time, in order, and never early."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.kernel.wheel import TICK, Wheel
from ksi.testing.loop import run

SECONDS = st.floats(min_value=-1.0, max_value=120.0)


class Item:
    """Notes when it expired."""

    def __init__(self) -> None:
        self.expired_at: float | None = None

    def expire(self) -> None:
        assert self.expired_at is None, "it expired twice"
        self.expired_at = asyncio.get_running_loop().time()


async def _expire(limits: list[float], removed: set[int]) -> list[float | None]:
    """When items with these limits expire, where those at the places ``removed`` are taken out at once."""
    wheel = Wheel(asyncio.get_running_loop())
    items = [Item() for _ in limits]
    ticks = [wheel.add(item, seconds) for item, seconds in zip(items, limits, strict=True)]
    for place in removed:
        wheel.remove(items[place], ticks[place])
    await asyncio.sleep(200)
    return [item.expired_at for item in items]


@given(st.lists(SECONDS, min_size=1, max_size=30), st.data())
def test_each_limit_passes_within_a_tick_and_never_early_and_the_removed_never(
    limits: list[float], data: st.DataObject
) -> None:
    removed = data.draw(st.sets(st.integers(0, len(limits) - 1)))
    for place, (seconds, expired_at) in enumerate(zip(limits, run(_expire(limits, removed)), strict=True)):
        if place in removed:
            assert expired_at is None
        else:
            assert expired_at is not None
            assert max(seconds, 0.0) - 1e-9 <= expired_at <= max(seconds, 0.0) + TICK + 1e-9


@pytest.mark.virtual
async def test_one_that_expires_can_spare_another_of_the_same_moment() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    spared = Item()

    class Sparing:
        def expire(self) -> None:
            wheel.remove(spared, tick)

    wheel.add(Sparing(), 1)
    tick = wheel.add(spared, 1)
    await asyncio.sleep(2)
    assert spared.expired_at is None


@pytest.mark.virtual
async def test_one_that_fails_does_not_keep_the_others_from_their_end(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def expire(self) -> None:
            raise RuntimeError("boom")

    wheel, other, later = Wheel(asyncio.get_running_loop()), Item(), Item()
    wheel.add(Failing(), 1)
    wheel.add(other, 1)
    wheel.add(later, 2)
    with caplog.at_level(logging.CRITICAL, "ksi.kernel"):
        await asyncio.sleep(3)
    assert other.expired_at is not None
    assert later.expired_at is not None


@pytest.mark.virtual
async def test_a_closed_wheel_expires_nothing_also_when_it_is_closed_by_one_that_expires() -> None:
    wheel, never = Wheel(asyncio.get_running_loop()), Item()

    class Closing:
        def expire(self) -> None:
            wheel.close()

    wheel.add(Closing(), 1)
    wheel.add(never, 1)
    wheel.add(never, 2)
    await asyncio.sleep(3)
    assert never.expired_at is None
