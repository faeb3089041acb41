"""A whole kernel on a disk that loses its power: what was answered is there afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import ClassVar

import msgspec
import pytest

from ksi.core.errors import UnavailableError
from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.threads import InlineThreads
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import VirtualClockLoop, run
from ksi.testing.vfs import DiskVFS


@fact("row:was_added")
class RowWasAdded(msgspec.Struct, frozen=True):
    number: int


class Rows(msgspec.Struct, frozen=True):
    id: str
    count: int


class RowsView(View[Rows]):
    name = "rows"
    query = (Filter(names=("row:was_added",)),)
    record = Rows
    key = ("id",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        known = writer.get("all")
        writer.put(Rows("all", 1 + (known.count if known else 0)))


class RowPlugin(AsyncPlugin):
    name = "row"
    views: ClassVar[tuple[type[View[Rows]], ...]] = (RowsView,)

    @event("row:add", key=lambda payload: "rows")
    async def add(self, number: int, context: EventContext) -> dict[str, int]:
        context.append("row/all", RowWasAdded(number))
        return {"number": number}


SEEDS = [*range(25), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(25, 500))]


@asynccontextmanager
async def kernel_on(path: Path, vfs: DiskVFS) -> AsyncIterator[EventTestHarness]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    log = SqliteEventStore.open(path, clock=loop.clock, threads=InlineThreads(), vfs=vfs.name)
    async with log as store, EventTestHarness(RowPlugin, log=store) as ksi:
        yield ksi


async def add_rows(ksi: EventTestHarness, count: int, answered: list[int]) -> None:
    """Note in ``answered`` the numbers of the rows whose commands were answered."""
    for at in range(0, count, 3):
        requests = (ksi.request("row:add", {"number": number}) for number in range(at, at + 3))
        ends = await asyncio.gather(*requests, return_exceptions=True)
        answered += [end["number"] for end in ends if not isinstance(end, BaseException)]
        assert all(isinstance(end, UnavailableError) for end in ends if isinstance(end, BaseException)), ends


async def lose_power(path: Path, vfs: DiskVFS, seed: int) -> list[int]:
    answered: list[int] = []
    async with kernel_on(path, vfs) as ksi:
        await add_rows(ksi, 3, answered)
        vfs.disk.fail_after(Random(seed).randrange(1, 40))
        await add_rows(ksi, 60, answered)  # each is answered, also where the disk can not even be read
    return answered


async def look(path: Path, vfs: DiskVFS) -> tuple[list[int], int]:
    async with kernel_on(path, vfs) as ksi:
        assert await ksi.log.verify() == []
        rows = await ksi.log.view(RowsView).get("all")
        return [row.data["number"] for row in await ksi.facts("row:*")], rows.count if rows else 0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_answered_command_survives_power_loss_with_its_views(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "events.db"
    with DiskVFS() as vfs:
        answered = run(lose_power(path, vfs, seed))
        assert not vfs.disk.is_powered
        vfs.disk.crash(seed)
        found, counted = run(look(path, vfs))
    assert counted == len(found)
    assert found[: len(answered)] == answered
    assert len(found) <= len(answered) + 3, "at most the batch that was under way"


async def fill_and_free(path: Path, vfs: DiskVFS) -> None:
    async with kernel_on(path, vfs) as ksi:
        answered: list[int] = []
        await add_rows(ksi, 3, answered)
        vfs.disk.full()
        await add_rows(ksi, 6, answered)
        assert answered == [0, 1, 2], "a full disk refuses commands"
        rows = await ksi.log.view(RowsView).get("all")
        assert rows == Rows("all", 3), "and what is there can be read"
        vfs.disk.full(False)
        await asyncio.sleep(60)
        await add_rows(ksi, 3, answered)  # the first of them has the log probe its disk
        await asyncio.sleep(60)
        answered.clear()
        await add_rows(ksi, 3, answered)
        assert answered == [0, 1, 2]
        assert await ksi.log.verify() == []


def test_a_full_disk_refuses_commands_until_there_is_room(tmp_path: Path) -> None:
    with DiskVFS() as vfs:
        run(fill_and_free(tmp_path / "events.db", vfs))
