"""A damaged log goes on as far as it is whole, says what is missing, and gives no position twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ksi.core.clock import SystemClock
from ksi.core.errors import LogDamagedError, LogLockedError, NotFoundError, ValidationError
from ksi.core.events import Filter
from ksi.core.ports import Outcome, Unit
from ksi.store.offline import verify_file
from ksi.store.salvage import LossWasAccepted, accept_loss
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, listed, request, written
from tests.store.images import EVERYTHING, FRAME, Image, holding, judged, taken
from tests.store.test_damage import FLIP, corrupt, files_in, filled


async def test_a_log_with_a_cut_end_opens_again_and_says_what_is_missing(tmp_path: Path) -> None:
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    acknowledged = image.events[-1].position
    os.truncate(image.wal, image.wal.stat().st_size - 3 * FRAME)
    with pytest.raises(LogDamagedError) as caught:
        async with SqliteEventStore.open(image.path):
            pass
    loss = accept_loss(image.path, caught.value.position, SystemClock())
    assert (loss.at, loss.lost_to) == (caught.value.position, acknowledged)
    assert f"@{acknowledged} was acknowledged" in loss.reason
    async with SqliteEventStore.open(image.path) as store:
        assert await store.verify() == []
        *kept, said = await listed(store.read_all(EVERYTHING))
        assert kept == image.events[: len(kept)]
        assert kept[-1].position == loss.at
        assert (said.name, said.into(LossWasAccepted)) == ("store:loss_was_accepted", loss)
        assert said.position == acknowledged + 1
        store.register(CounterView)
        assert await store.view(CounterView).get("1") == Counter("1", 2)
        assert (await written(store, command("counter/1"))).position == acknowledged + 4


async def test_the_damaged_log_is_kept_as_it_was(tmp_path: Path) -> None:
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    os.truncate(image.wal, image.wal.stat().st_size - FRAME)
    was = image.copy(tmp_path / "was")
    kept = Image(Path(accept_loss(image.path, verify_file(image.path).head, SystemClock()).kept_as), image.events)
    for mine, before in ((kept.path, was.path), (kept.wal, was.wal), (kept.head, was.head)):
        assert mine.read_bytes() == before.read_bytes()


async def test_an_erasure_names_what_was_put_aside_and_removes_it_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        await store.append("counter/lighthouse", [added(subject="person/1")])
    kept_as = accept_loss(path, 1, SystemClock()).kept_as
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        named = (await store.erase_subject("person/1")).damaged
        assert (named[0], holding(tmp_path, '"lighthouse"')) == (kept_as, [Path(kept_as).name])
        assert (await store.erase_subject("person/1", with_damaged=True)).damaged == ()
        assert holding(tmp_path, '"lighthouse"') == []


async def test_what_stands_behind_a_flipped_row_is_given_up_with_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, FLIP.format(30))
    loss = accept_loss(path, 27, SystemClock())
    assert (loss.at, loss.lost_to, "digest" in loss.reason) == (27, 60, True)
    assert verify_file(path).problems == []
    assert verify_file(path).head == 61


async def test_damaged_indexes_are_made_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    slow, never = request(), request()
    async with SqliteEventStore.open(path) as store:
        await written(store, command())
        await written(store, Unit(origin=slow, request=True))
        await written(store, Unit(origin=never, request=True))
        await store.append("note/1", [added(tags=frozenset({"agent:a1"}))])
        await written(store, Unit(origin=slow, outcome=Outcome(True, b"{}")))
        before = await listed(store.read_all(EVERYTHING))
        await store.reset_checkpoint("mailer", before[-1].position)
    corrupt(path, "DELETE FROM ids; DELETE FROM open; DELETE FROM keys")
    head = before[-1].position
    assert accept_loss(path, head, SystemClock()).lost_to == head
    async with SqliteEventStore.open(path) as store:
        assert await store.verify() == []
        assert (await listed(store.read_all(EVERYTHING)))[:-1] == before
        assert [known.request.event_id for known in [each async for each in store.open_requests()]] == [never.event_id]
        assert len(await listed(store.read_all([Filter(tags=frozenset({"agent:a1"}))]))) == 1
        assert await store.checkpoint("mailer") == head
        known = await store.find(slow.event_id)
        assert known is not None
        assert known.outcome == Outcome(True, b"{}")


async def test_a_checkpoint_behind_the_loss_comes_back_to_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, "INSERT INTO checkpoints VALUES ('mailer', 0, 60)")
    corrupt(path, FLIP.format(30))
    accept_loss(path, 27, SystemClock())
    async with SqliteEventStore.open(path) as store:
        assert await store.checkpoint("mailer") == 27


async def test_a_second_loss_is_the_next_version_of_the_same_stream(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    accept_loss(path, 60, SystemClock())
    accept_loss(path, 61, SystemClock())
    async with SqliteEventStore.open(path) as store:
        said = await listed(store.read_stream("store/log"))
        assert [(event.version, event.position) for event in said] == [(1, 61), (2, 62)]
    assert {"events.db.damaged-1", "events.db.damaged-2"} <= set(files_in(tmp_path))


@pytest.mark.parametrize(("at", "says"), [(28, "@27"), (61, "@60"), (0, None)])
async def test_the_cut_is_where_a_commit_ends(tmp_path: Path, at: int, says: str | None) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    before = path.read_bytes()
    if says is None:
        assert accept_loss(path, at, SystemClock()).lost_to == 60
        return
    with pytest.raises(ValidationError, match=says):
        accept_loss(path, at, SystemClock())
    assert path.read_bytes() == before
    assert verify_file(path).problems == []


async def test_beyond_the_damage_no_cut_is_made(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, FLIP.format(30))
    with pytest.raises(ValidationError, match="@27"):
        accept_loss(path, 33, SystemClock())


@pytest.mark.parametrize("name", ["", "-wal", "-head"])
async def test_a_crash_while_it_is_put_in_place_leaves_no_shorter_log_that_opens(tmp_path: Path, name: str) -> None:
    """Each of the steps is one file: before it is changed, and after, the log is refused or is the new one."""
    image = await taken(tmp_path / "events.db", tmp_path / "image")
    os.truncate(image.wal, image.wal.stat().st_size - FRAME)
    half = image.copy(tmp_path / "half")
    accept_loss(image.path, verify_file(image.path).head, SystemClock())
    if name == "-wal":
        half.wal.unlink()
    elif name == "-head":
        half.wal.unlink()
        half.head.write_bytes(image.head.read_bytes())
    assert await judged(half) == "refused"


async def test_a_log_in_use_or_none_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        accept_loss(tmp_path / "events.db", 3, SystemClock())
    async with SqliteEventStore.open(tmp_path / "events.db"):
        with pytest.raises(LogLockedError):
            accept_loss(tmp_path / "events.db", 0, SystemClock())


async def test_a_log_of_which_nothing_can_be_read_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await filled(path)
    corrupt(path, "DROP TABLE commits")
    with pytest.raises(ValidationError, match="@0"):
        accept_loss(path, 30, SystemClock())
    assert files_in(tmp_path) == ["events.db", "events.db-head", "events.db-lock"]
