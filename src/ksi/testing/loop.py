"""A loop whose time moves only when nothing else can happen, its clock, and threads that run inline in it.

Time stands still while a callback is ready and while something is outstanding outside of the loop's thread. What is
outside says so: :class:`CountedThreads`, ``run_in_executor`` and ``asyncio.to_thread`` by themselves, anything else
(a child process, a peer in another process) by :meth:`VirtualClockLoop.outside`. Sockets and pipes do not count: what
a peer in this process has sent is ready at the next turn, and an open connection on which nobody writes must not stop
the clock. So a test of a second's silence takes no second, and a deadline can not fire during a commit.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, TypeVar, TypeVarTuple

from ksi.core.clock import microseconds
from ksi.core.threads import Lane, SystemThreads

T = TypeVar("T")
A = TypeVarTuple("A")
START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 10.0
"""Real seconds that the loop waits for something outside."""
HORIZON = 86_400.0
"""Virtual seconds after which a test is taken for one that never ends: a ticker hides a deadlock."""
TURNS_MAX = 1_000_000
"""Turns in which no time passes after which a test is taken for one that only spins."""


class DeadlockError(Exception):
    """Nothing can ever happen again in this loop. The message says what waits, and where."""


class ManualClock:
    """A :class:`~ksi.core.clock.Clock` that is moved by hand, or by the loop it belongs to."""

    def __init__(self, start: datetime = START) -> None:
        self._now = 0.0
        self._wall_us = microseconds(start)

    def time_us(self) -> int:
        return self._wall_us + round(self._now * 1_000_000)

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; timers of a loop with this clock that are due then fire at its next turn."""
        if seconds < 0:
            raise ValueError("time does not go back; shift_wall moves the wall clock")
        self._now += seconds

    def shift_wall(self, seconds: float) -> None:
        """Set the wall clock, as NTP or a person does: forward, or back. Monotonic time does not notice."""
        self._wall_us += round(seconds * 1_000_000)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A selector loop on a :class:`ManualClock`.

    ``seed``: half of the steps of tasks, chosen by it, are taken one turn later, which finds code that relies on the
    order in which tasks run. Callbacks that are no tasks keep their order: asyncio's transports need it.
    """

    def __init__(self, *, clock: ManualClock | None = None, seed: int | None = None, horizon: float = HORIZON) -> None:
        self.clock = clock or ManualClock()
        self._horizon = horizon
        self._late = None if seed is None else Random(seed)
        self._held: dict[object, str] = {}
        self._turns = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.clock.monotonic()

    def hold(self, what: str) -> Callable[[], None]:
        """Let time stand still until the answer is called; ``what`` names it where it never is."""
        key = object()
        self._held[key] = what

        def release() -> None:
            self._held.pop(key, None)

        return release

    @contextmanager
    def outside(self, what: str) -> Iterator[None]:
        """Time stands still inside: something outside of this thread is at work."""
        release = self.hold(what)
        try:
            yield
        finally:
            release()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*A], T], *args: *A) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        release = self.hold(f"{getattr(func, '__qualname__', func)} in an executor")
        future.add_done_callback(lambda _: release())
        return future

    def call_soon(
        self, callback: Callable[[*A], object], *args: *A, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if self._late is not None and is_step(callback) and self._late.random() < 0.5:
            return super().call_soon(partial(super().call_soon, callback, *args, context=context))
        return super().call_soon(callback, *args, context=context)

    def idle(self, seconds: float | None, wait: Callable[[float], list[Any]]) -> list[Any]:
        """Nothing is ready for ``seconds`` (None: for ever): wait for what is outside, else let them pass."""
        self._turns = 0
        if self._held:
            return wait(PATIENCE) or self._stuck(
                f"waited {PATIENCE:g} real seconds for {', '.join(self._held.values())}"
            )
        if seconds is None:
            return self._stuck("nothing is ready, no timer is set, nothing is outstanding outside")
        self.clock.advance(seconds)
        if self.time() > self._horizon:
            return self._stuck(f"{self._horizon:g} virtual seconds passed")
        return []

    def turn(self) -> None:
        """Something is ready again."""
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            self._stuck(f"{TURNS_MAX} turns passed and no time")

    def _stuck(self, reason: str) -> list[Any]:
        waiting = "\n".join(sorted(f"  {where(task)}" for task in asyncio.all_tasks(self)))
        raise DeadlockError(f"{reason}; these tasks wait:\n{waiting}")


class _Selector(selectors.DefaultSelector):
    """Asks its loop what to do where it would sleep."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            self._loop.turn()
            return events
        return self._loop.idle(timeout, super().select)


class CountedThreads(SystemThreads):
    """Real threads under virtual time, which stands still while a job of theirs is under way."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__(loop)
        self._clock_loop = loop

    def submit(self, lane: Lane, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        release = self._clock_loop.hold(f"a {lane} job")

        def came(result: T | None, error: BaseException | None) -> None:
            release()
            done(result, error)

        super().submit(lane, job, came)


def run(main: Coroutine[Any, Any, T], *, seed: int | None = None) -> T:
    """Run ``main`` on a virtual loop of its own; see :class:`VirtualClockLoop` for ``seed``."""
    with asyncio.Runner(loop_factory=partial(VirtualClockLoop, seed=seed)) as runner:
        return runner.run(main)


def is_step(callback: Callable[..., object]) -> bool:
    """Whether ``callback`` runs a task on."""
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def where(task: asyncio.Task[Any]) -> str:
    """A task's name and the innermost line at which it waits."""
    at: Any = task.get_coro()
    place = getattr(at, "__qualname__", repr(at))
    while at is not None:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
    return f"{task.get_name()}: {place}"
