"""A subscription outlives its daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.ways import WAYS, Way
from tests.daemon.following import followed


@pytest.mark.parametrize("way", [WAYS[0], *(pytest.param(way, marks=pytest.mark.soak) for way in WAYS[1:])])
async def test_a_subscription_loses_and_doubles_nothing_over_restarts(way: Way, tmp_path: Path) -> None:
    numbers = await followed(tmp_path / "home", restarts=2, seed=1, way=way)
    assert numbers.read == list(range(len(numbers.read)))
    assert numbers.positions == sorted(set(numbers.positions))
