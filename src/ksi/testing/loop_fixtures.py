"""Fixtures that run on the loop of the test: registered by the plugin where pytest-asyncio is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ksi.testing import leaks
from ksi.testing.loop import ManualClock, VirtualClockLoop


@pytest_asyncio.fixture
async def virtual_clock() -> ManualClock:
    """The clock of the virtual loop that this test runs on."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualClockLoop):
        raise pytest.UsageError("virtual_clock needs @pytest.mark.virtual")
    return loop.clock


@pytest_asyncio.fixture
async def no_leaked_tasks(no_leaks: None) -> AsyncIterator[None]:
    """As ``no_leaks``, and fail where tasks are left on the loop."""
    before = asyncio.all_tasks()
    with leaks.births(asyncio.get_running_loop()) as made:
        yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    leaks.fail_for([f"task {task.get_name()}, made{made.get(task, ' elsewhere')}" for task in left])
