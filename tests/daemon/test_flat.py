"""Memory, descriptors and tasks over many requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.flat import everything, growth, leaking, samples


async def test_twenty_thousand_requests_leave_nothing_behind(tmp_path: Path) -> None:
    """The log's own memory still fills, up to its bound: some 200 bytes for each."""
    assert growth(await samples(tmp_path / "home", everything, requests=20_000)) < 64 << 20


async def test_one_task_in_a_thousand_that_is_left_is_seen(tmp_path: Path) -> None:
    taken = await samples(tmp_path / "home", leaking, requests=10_000)
    with pytest.raises(AssertionError):
        growth(taken)
