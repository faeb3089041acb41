"""``kill -9``, as often as one likes."""

from __future__ import annotations

from pathlib import Path

from tests.daemon.killing import killed_under_load


async def test_what_was_acknowledged_outlives_kills_at_random_moments(tmp_path: Path) -> None:
    assert await killed_under_load(tmp_path / "home", kills=6, seed=1) > 100
