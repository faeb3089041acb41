"""The same kills as in every test run, by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.killing import killed_under_load

pytestmark = pytest.mark.soak


async def test_what_was_acknowledged_outlives_two_hundred_kills(tmp_path: Path) -> None:
    assert await killed_under_load(tmp_path / "home", kills=200, seed=2) > 5_000
