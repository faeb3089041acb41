"""A loop that does not wait: where nothing is left to do but to let time pass, it has passed.

Nothing comes from outside in a replay, so whoever sleeps is woken by the clock alone.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Ready = list[tuple[selectors.SelectorKey, int]]


class SkippingLoop(asyncio.SelectorEventLoop):
    """Time is not skipped while a thread works."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self._in_threads = 0
        super().__init__(_SkippingSelector(self._skip))

    def time(self) -> float:
        return super().time() + self._skipped

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self._in_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: asyncio.Future[Any]) -> None:
        self._in_threads -= 1

    def _skip(self, seconds: float) -> bool:
        if self._in_threads:
            return False
        self._skipped += seconds
        return True


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, skip: Callable[[float], bool]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> Ready:
        ready: Ready = super().select(0)
        if ready or (timeout is not None and (timeout <= 0 or self._skip(timeout))):
            return ready
        return super().select(timeout)
