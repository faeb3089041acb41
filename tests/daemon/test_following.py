"""A subscription outlives its daemon."""

from __future__ import annotations

from pathlib import Path

from tests.daemon.following import followed


async def test_a_subscription_loses_and_doubles_nothing_over_restarts(tmp_path: Path) -> None:
    numbers = await followed(tmp_path / "home", restarts=5, seed=1)
    assert numbers.read == list(range(len(numbers.read)))
    assert numbers.positions == sorted(set(numbers.positions))
