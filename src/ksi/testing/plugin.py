"""The pytest plugin: virtual time and leak checks, each asked for by a marker.

::

    @pytest.mark.virtual                 # fixtures and test run on a VirtualClockLoop; also (seed=7), (horizon=…)
    async def test_an_idle_lease_ends(virtual_clock): ...

    @pytest.mark.leakcheck               # fails where the test leaves tasks, threads, descriptors or children
    async def test_a_stopped_daemon_is_gone(): ...

Both work with pytest-asyncio, whose loop factories the first one joins: unmarked tests keep the loop that they had.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial

import pytest

from ksi.testing import leaks
from ksi.testing.loop import VirtualClockLoop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual(seed=None, horizon=86400): run on a loop with virtual time")
    config.addinivalue_line("markers", "leakcheck: fail where tasks, threads, descriptors or children are left behind")
    if config.pluginmanager.hasplugin("asyncio"):
        # Here, for pytest loads this plugin wherever KSI is installed, also where pytest-asyncio is not.
        from ksi.testing import loop_fixtures

        config.pluginmanager.register(loop_fixtures, "ksi-loop-fixtures")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Generator[None, Mapping[str, LoopFactory] | None, Mapping[str, LoopFactory]]:
    others = yield
    marker = item.get_closest_marker("virtual")
    if marker is not None:
        return {"virtual": partial(VirtualClockLoop, **marker.kwargs)}
    return others or {"default": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and item.get_closest_marker("leakcheck"):
        wanted = "no_leaked_tasks" if inspect.iscoroutinefunction(item.function) else "no_leaks"
        item.fixturenames.insert(0, wanted)  # first set up, so last torn down: what fixtures leave counts too


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail where threads, file descriptors or child processes are left, once the loop is closed."""
    before = leaks.present()
    yield
    leaks.let_waiters_end(before)
    leaks.fail_for(leaks.new_since(before, leaks.present()))
