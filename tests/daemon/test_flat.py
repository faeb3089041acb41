"""Memory and descriptors over many requests."""

from __future__ import annotations

from pathlib import Path

from tests.daemon.flat import growth, read


async def test_forty_thousand_queries_leave_nothing_in_memory(tmp_path: Path) -> None:
    assert await growth(tmp_path / "home", read, warm_up=20_000, requests=40_000) < 1 << 20
