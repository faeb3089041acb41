"""Work off the loop, through one port, so that a test can count it, or run it inline under a virtual clock."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")
Lane = Literal["writer", "reader", "blocking"]
LANES: dict[Lane, int] = {"writer": 1, "reader": 4, "blocking": 8}
"""Threads of each lane. Jobs of the writer's lane run in the order in which they were given."""


class Threads(Protocol):
    """Runs functions off the loop."""

    def submit(self, lane: Lane, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run ``job`` in ``lane``, then ``done(result, error)`` on the loop, in the context of the caller."""

    async def run(self, lane: Lane, job: Callable[[], T]) -> T:
        """The same for a coroutine. When it is cancelled the job still runs to its end."""

    def close(self) -> None:
        """Wait for what runs, but in the lane "blocking", which is others' code. Nothing can be submitted after it."""


class SystemThreads:
    """Real threads: one executor a lane, one wake-up of the loop a job."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._lanes = {lane: ThreadPoolExecutor(size, thread_name_prefix=f"ksi-{lane}") for lane, size in LANES.items()}

    def submit(self, lane: Lane, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        context = contextvars.copy_context()

        def work() -> None:
            try:
                result, error = context.run(job), None
            except BaseException as raised:  # noqa: BLE001  # handed to `done`, which decides
                result, error = None, raised
            self._loop.call_soon_threadsafe(done, result, error, context=context)

        self._lanes[lane].submit(work)

    async def run(self, lane: Lane, job: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self.submit(lane, job, lambda result, error: settle(future, result, error))
        return await future

    def close(self) -> None:
        for lane, executor in self._lanes.items():
            executor.shutdown(wait=lane != "blocking", cancel_futures=lane == "blocking")


class InlineThreads:
    """:class:`Threads` without threads: jobs run on the loop, one a turn, in the order of submission.

    A job never runs inside of ``submit``, and its ``done`` never in the same turn, as with real threads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._jobs: deque[Callable[[], None]] = deque()
        self._closed = False

    def submit(self, lane: Lane, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        if self._closed:
            raise RuntimeError(f"a {lane} job was submitted after close")
        context = contextvars.copy_context()

        def work() -> None:
            try:
                result, error = context.run(job), None
            except BaseException as raised:  # noqa: BLE001  # handed to `done`, which decides
                result, error = None, raised
            self._loop.call_soon(done, result, error, context=context)

        self._jobs.append(work)
        self._loop.call_soon(self._next)

    async def run(self, lane: Lane, job: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self.submit(lane, job, lambda result, error: settle(future, result, error))
        return await future

    def close(self) -> None:
        self._closed = True
        while self._jobs:
            self._next()

    def _next(self) -> None:
        if self._jobs:  # close ran them already
            self._jobs.popleft()()


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give ``future`` its end, unless it was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
