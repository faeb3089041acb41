"""Memory, descriptors and tasks over a million requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.flat import everything, growth, samples

pytestmark = pytest.mark.soak


async def test_a_million_requests_add_no_more_than_a_megabyte_in_a_hundred_thousand(tmp_path: Path) -> None:
    """On SQLite that syncs every commit: a fifth are commands, a twentieth streams, half of these cancelled."""
    taken = await samples(tmp_path / "home", everything, requests=1_000_000)
    assert growth(taken) <= 1 << 20, taken
