"""Daemons with the plugins of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ksi.testing.daemon_process import DaemonProcess

HERE = Path(__file__).parent
LEDGER, DEADLY, MIXED = HERE / "ledger.py", HERE / "deadly.py", HERE / "mixed.py"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(
        tmp_path / "home", LEDGER, DEADLY, MIXED, settings={"limits.disconnect_grace": 1.0}
    ) as daemon:
        yield daemon
