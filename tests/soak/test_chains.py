"""Nested commands over two hundred crashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.chains import chains_killed_between_their_steps

pytestmark = pytest.mark.soak


async def test_nested_commands_stand_once_over_two_hundred_crashes_between_them(tmp_path: Path) -> None:
    await chains_killed_between_their_steps(tmp_path / "home", kills=200, seed=2)
