"""Memory and descriptors over a million requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.flat import growth, read_or_command

pytestmark = pytest.mark.soak


async def test_a_million_requests_fill_the_bounded_memory_of_the_log_and_no_more(tmp_path: Path) -> None:
    """After half a million the part of the log that is kept in memory has its full size."""
    grown = await growth(tmp_path / "home", read_or_command, warm_up=600_000, requests=1_000_000)
    assert grown < 8 << 20
