"""The crash matrix: whatever is cut, flipped or not written, no acknowledged event is lost in silence.

Small here; the soak tries every page and every change. Kills of a process are in ``test_damage``, a full disk in
``test_full_disk``, the tables one by one in ``test_flips``.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from pathlib import Path

import pytest

from ksi.core.errors import UnavailableError
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import CounterView, command, listed, written
from ksi.testing.vfs import DiskVFS
from tests.store.images import EVERYTHING, FRAME, WAL_HEADER, Image, flip, judged, taken

PAGE = 4096


# ── the WAL ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def cuts(image: Image, step: int) -> list[int]:
    """Sizes: at the end of a page of the WAL, and within the next one."""
    size = image.wal.stat().st_size
    ends = range(WAL_HEADER, size - FRAME + 1, FRAME)
    return sorted({0, *(end + more for end in ends[::step] for more in (0, 1000))})


async def cut_at_pages(tmp_path: Path, step: int) -> None:
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    assert await judged(image.copy(tmp_path / "whole")) == "whole"
    for size in cuts(image, step):
        cut = image.copy(tmp_path / f"cut{size}")
        os.truncate(cut.wal, size)
        assert await judged(cut) == "refused", size


async def test_a_wal_that_is_cut_at_some_page_is_refused(tmp_path: Path) -> None:
    await cut_at_pages(tmp_path, 4)


@pytest.mark.soak
async def test_a_wal_that_is_cut_at_any_page_is_refused(tmp_path: Path) -> None:
    await cut_at_pages(tmp_path, 1)


async def flipped_in_wal(tmp_path: Path, step: int) -> None:
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    size = image.wal.stat().st_size
    for offset in range(0, size, step):
        flipped = image.copy(tmp_path / f"flip{offset}")
        flip(flipped.wal, offset, offset % 8)
        assert await judged(flipped) == "refused", offset


async def test_a_bit_that_is_flipped_in_the_wal_is_refused(tmp_path: Path) -> None:
    await flipped_in_wal(tmp_path, 3_347)


@pytest.mark.soak
async def test_bits_that_are_flipped_all_over_the_wal_are_refused(tmp_path: Path) -> None:
    await flipped_in_wal(tmp_path, 531)


async def test_what_was_written_and_not_acknowledged_may_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await written(store, command())
        events = await listed(store.read_all(EVERYTHING))
        before = Image(path, events).copy(tmp_path / "before")
        await written(store, command())
        after = Image(path, events).copy(tmp_path / "after")
    after.head.write_bytes(before.head.read_bytes())  # the crash came between the commit and the witness
    for size in range(before.wal.stat().st_size, after.wal.stat().st_size + 1, FRAME // 2):
        cut = after.copy(tmp_path / f"cut{size}")
        os.truncate(cut.wal, size)
        async with SqliteEventStore.open(cut.path) as store:
            found = await listed(store.read_all(EVERYTHING))
            assert await store.verify() == []
        assert found[:3] == events
        assert len(found) in (3, 6)


# ── the witness ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def flipped_in_witness(tmp_path: Path, step: int) -> None:
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    for offset in range(0, image.head.stat().st_size, step):
        flipped = image.copy(tmp_path / f"flip{offset}")
        flip(flipped.head, offset, offset % 8)
        assert await judged(flipped) == "whole", offset


async def test_a_bit_that_is_flipped_in_the_witness_refuses_nobody(tmp_path: Path) -> None:
    await flipped_in_witness(tmp_path, 17)


@pytest.mark.soak
async def test_no_byte_of_the_witness_refuses_anybody_when_it_is_flipped(tmp_path: Path) -> None:
    await flipped_in_witness(tmp_path, 1)


# ── the main file ────────────────────────────────────────────────────────────────────────────────────────────────────
async def flipped_in_file(tmp_path: Path, step: int) -> Tally[str]:
    image = await taken(tmp_path / "events.db", tmp_path / "image", closed=True)
    found: Tally[str] = Tally()
    for offset in range(100, image.path.stat().st_size, step):  # up to there is SQLite's own header
        flipped = image.copy(tmp_path / f"flip{offset}")
        flip(flipped.path, offset, offset % 8)
        found[await judged(flipped)] += 1  # which fails where it is neither whole nor said
    return found


async def test_a_bit_that_is_flipped_in_the_file_is_harmless_or_said(tmp_path: Path) -> None:
    found = await flipped_in_file(tmp_path, 1_001)
    assert found["refused"] + found["named"] > 0


@pytest.mark.soak
async def test_bits_that_are_flipped_all_over_the_file_are_harmless_or_said(tmp_path: Path) -> None:
    found = await flipped_in_file(tmp_path, 29)
    assert found["refused"] + found["named"] > 50


# ── the power ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def dies_at(path: Path, change: int, seed: int | None) -> bool:
    """Lose the power at the ``change``-th write or sync; whether there were so many. What was acknowledged is there."""
    acknowledged = 0
    with DiskVFS() as vfs:
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            store.register(CounterView)
            await written(store, command())
            vfs.disk.fail_after(change)
            try:
                for _ in range(4):
                    await written(store, command())
                    acknowledged += 1
                await store.views_written()
            except UnavailableError:
                pass
            was_lost = not vfs.disk.is_powered
        vfs.disk.crash(seed)
        async with SqliteEventStore.open(path, vfs=vfs.name) as store:
            assert await store.verify() == []
            found = len(await listed(store.read_all(EVERYTHING)))
        assert found // 3 in (acknowledged + 1, acknowledged + 2)  # what was under way may be there
    return was_lost


async def dies_at_each_step(tmp_path: Path, step: int) -> None:
    change, was_lost = 1, True
    while was_lost:
        for seed in (None, change):
            was_lost = await dies_at(tmp_path / f"{change}-{seed}.db", change, seed)
        change += step


async def test_power_that_goes_at_some_step_of_the_writer_takes_nothing_acknowledged(tmp_path: Path) -> None:
    await dies_at_each_step(tmp_path, 7)


@pytest.mark.soak
async def test_power_that_goes_at_any_step_of_the_writer_takes_nothing_acknowledged(tmp_path: Path) -> None:
    await dies_at_each_step(tmp_path, 1)
