"""What a test left behind: tasks, threads, file descriptors, child processes. Reads Linux's ``/proc``."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

Found = Mapping[str, Mapping[object, str]]
"""By kind: what there is, and how to name it."""
FRAMES_SHOWN = 4
WAITER = "asyncio-waitpid-"
"""Begins the name of asyncio's threads that wait for a child process."""
WAITER_GRACE = 5.0
"""Seconds in which one whose child is gone may still run its last instructions."""


def present() -> Found:
    """Threads, descriptors and children that this process has now."""
    return {"thread": _threads(), "file descriptor": _descriptors(), "child process": _children()}


def new_since(before: Found, now: Found) -> list[str]:
    """A line for each thing that is in ``now`` and was not in ``before``."""
    return [f"{kind} {name}" for kind, found in now.items() for key, name in found.items() if key not in before[kind]]


def let_waiters_end(before: Found) -> None:
    """Nobody else can join the threads in which asyncio waits for children: one may stand in front of its end."""
    for thread in threading.enumerate():
        if thread.name.startswith(WAITER) and thread not in before["thread"]:
            thread.join(WAITER_GRACE)


def fail_for(left: list[str]) -> None:
    """Fail the test that runs where something is ``left``."""
    if left:
        pytest.fail("left behind:\n" + "\n".join(f"  {line}" for line in sorted(left)), pytrace=False)


@contextmanager
def births(loop: asyncio.AbstractEventLoop) -> Iterator[Mapping[asyncio.Task[Any], str]]:
    """Where each task was made that is made inside of this block."""
    made: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
    before = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        made[task] = _stack(sys._getframe(1))  # noqa: SLF001  # what traceback.walk_stack(None) calls itself
        return task

    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(before)


def _threads() -> dict[object, str]:
    frames = sys._current_frames()  # noqa: SLF001  # the documented way to the stacks of other threads
    return {
        thread: f"{thread.name!r}, now{_stack(frames.get(thread.ident or 0))}"
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    }


def _descriptors() -> dict[object, str]:
    found: dict[object, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the directory
            target = str(entry.readlink())
            found[entry.name, target] = f"{entry.name} -> {target}"
    return found


def _children() -> dict[object, str]:
    found: dict[object, str] = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that ended meanwhile
            found |= {pid: f"{pid}: {_command(pid)}" for pid in (task / "children").read_text().split()}
    return found


def _command(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def _stack(frame: Any) -> str:
    lines = traceback.extract_stack(frame)
    ours = [line for line in lines if "asyncio" not in Path(line.filename).parts]
    return "".join(f"\n      {line.filename}:{line.lineno} in {line.name}" for line in ours[-FRAMES_SHOWN:])
