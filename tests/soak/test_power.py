"""The same power losses as in every test run, by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.power import lost

pytestmark = pytest.mark.soak


async def test_full_durability_loses_nothing_over_five_hundred_power_losses(tmp_path: Path) -> None:
    for seed in range(500):
        assert await lost(tmp_path / f"{seed}.db", seed) == 0
