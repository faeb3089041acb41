"""Logs as a crash leaves them, what can be done to them, and the one question: is what was acknowledged still there?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from ksi.core.errors import LogDamagedError, UnavailableError
from ksi.core.events import Filter, RecordedEvent
from ksi.store.offline import verify_file
from ksi.store.query import KINDS
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import CounterView, added, command, listed, written

EVERYTHING = [Filter(kinds=KINDS)]
WAL_HEADER, FRAME = 32, 24 + 4096
Verdict = Literal["whole", "named", "refused"]


class Image:
    """The files of a log in the middle of its life, and the events that were acknowledged by then."""

    def __init__(self, path: Path, events: list[RecordedEvent]) -> None:
        self.path = path
        self.events = events

    @property
    def wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    @property
    def head(self) -> Path:
        return self.path.with_name(self.path.name + "-head")

    def copy(self, to: Path) -> Image:
        to.mkdir()
        for file in (self.path, self.wal, self.head):
            if file.exists():
                shutil.copyfile(file, to / file.name)
        return Image(to / self.path.name, self.events)


async def taken(path: Path, to: Path, *, closed: bool = False) -> Image:
    """A log with some of everything, as ``kill -9`` would leave it, or as the next start would find it."""
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        for number in range(6):
            await written(store, command(f"counter/{number % 3}"))
        await store.append("counter/0", [added(tags=frozenset({"agent:a1"}))])
        await store.views_written()
        await written(store, command("counter/2"))
        events = await listed(store.read_all(EVERYTHING))
        if not closed:
            return Image(path, events).copy(to)
    return Image(path, events).copy(to)


async def judged(image: Image) -> Verdict:
    """What becomes of it: all is there, or a check names what is wrong, or it is refused. Anything else is a loss."""
    try:
        async with SqliteEventStore.open(image.path) as store:
            problems = await store.verify()
            if not problems:
                assert (await listed(store.read_all(EVERYTHING)))[: len(image.events)] == image.events
                store.register(CounterView)
                assert (await store.view(CounterView).get("2")).total == 3  # type: ignore[union-attr]  # it is there
            return "named" if problems else "whole"
    except LogDamagedError:
        return "refused"
    except UnavailableError:  # a view whose table is not what was made: it is built again
        return "named"


def flip(file: Path, offset: int, bit: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[offset] ^= 1 << bit
    file.write_bytes(raw)


def whole_to(path: Path) -> int:
    """The position up to which a check finds it whole."""
    return verify_file(path).head


def holding(directory: Path, text: str) -> list[str]:
    """The files in which ``text`` can be read."""
    return sorted(file.name for file in directory.rglob("*") if file.is_file() and text.encode() in file.read_bytes())
