"""Power loss, simulated by a disk that forgets what was not synced."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.store import tail, upkeep, writer
from tests.daemon.power import lost


@pytest.fixture(autouse=True)
def busy_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, views and checkpoints are written every few commits, so that the power may go in the middle of them."""
    monkeypatch.setattr(tail, "ROWS_MAX", 60)
    monkeypatch.setattr(tail, "NEWEST", 10)
    monkeypatch.setattr(upkeep, "CHANGES_MAX", 10)
    monkeypatch.setattr(writer, "PAGES_MAX", 30)


async def test_full_durability_loses_nothing_over_ten_power_losses(tmp_path: Path) -> None:
    assert [await lost(tmp_path / f"{seed}.db", seed) for seed in range(10)] == [0] * 10


async def test_without_syncs_the_same_test_sees_the_loss(tmp_path: Path) -> None:
    losses = [await lost(tmp_path / f"{seed}.db", seed, syncs=False) for seed in range(5)]
    assert any(losses)


async def test_normal_durability_is_whole_after_a_power_loss_but_may_lack_the_last_commands(tmp_path: Path) -> None:
    losses = [await lost(tmp_path / f"{seed}.db", seed, durability="normal") for seed in range(5)]
    assert -1 not in losses
    assert any(losses)
