"""What is recorded for a subject is sealed; when its key is gone nobody reads it, and the log is whole all the same."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import apsw
import pytest

from ksi.core.errors import NotFoundError
from ksi.core.events import Erased, Filter, NewEvent, RecordedEvent
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.store.backup import restore
from ksi.store.debugger import TimeTravelDebugger
from ksi.store.keyfile import keys_of
from ksi.store.memory import InMemoryEventStore
from ksi.store.offline import verify_file
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import Counter, CounterView, added, command, listed, request, written
from ksi.testing.postgres import PostgresServer
from tests.store.images import EVERYTHING, holding

SECRET = "lighthouse-keeper"
ALICE, BOB = "person/alice", "person/bob"


def note(text: str = SECRET, subject: str | None = ALICE, **more: Any) -> NewEvent:
    return NewEvent(name="note:written", data={"text": text}, subject=subject, **more)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    opened: Any = InMemoryEventStore()
    if request.param == "sqlite":
        opened = SqliteEventStore.open(tmp_path / "events.db")
    if request.param == "postgresql":
        opened = PostgresEventStore.open(request.getfixturevalue("url"), keys=tmp_path / "keys")
    async with opened as store:
        yield store


async def the_only(log: Journal, name: str = "note:written") -> RecordedEvent:
    (event,) = await listed(log.read_all([Filter(names=(name,))]))
    return event


# ── every backend ────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_until_it_is_erased_it_reads_like_any_other(log: Journal) -> None:
    await log.append("note/1", [note()])
    event = await the_only(log)
    assert (event.data, event.subject, event.is_erased) == ({"text": SECRET}, ALICE, False)
    assert await log.get(event.event_id) == event
    assert await log.at(event.position) == event


async def test_what_is_erased_is_an_envelope_without_data(log: Journal) -> None:
    await log.append("note/1", [note(tags=frozenset({"a:b"}))])
    before = await the_only(log)
    assert await log.erase_subject(ALICE) == Erased(ALICE, 1, [])
    event = await the_only(log)
    assert (event.data, event.is_erased) == (None, True)
    assert (event.event_id, event.position, event.tags) == (before.event_id, before.position, before.tags)
    assert await log.get(event.event_id) == event
    assert await log.verify() == []


async def test_others_are_left_as_they_are(log: Journal) -> None:
    await log.append("note/1", [note("mine", BOB), note(), note("nobody's", None)])
    await log.erase_subject(ALICE)
    events = await listed(log.read_stream("note/1"))
    assert [event.data for event in events] == [{"text": "mine"}, None, {"text": "nobody's"}]


async def test_what_comes_after_the_erasure_can_be_read_and_erased_again(log: Journal) -> None:
    for _ in range(2):
        await log.append("note/1", [note()])
        assert (await listed(log.read_stream("note/1")))[-1].data == {"text": SECRET}
        await log.erase_subject(ALICE)
    assert [event.data for event in await listed(log.read_stream("note/1"))] == [None, None]


async def test_what_comes_after_the_erasure_is_there_after_the_next_start_too(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as log:
        await log.append("note/1", [note()])
        await log.erase_subject(ALICE)
        await log.append("note/1", [note("new")])
    async with SqliteEventStore.open(tmp_path / "events.db") as log:
        assert [event.data for event in await listed(log.read_stream("note/1"))] == [None, {"text": "new"}]


async def test_a_request_its_facts_and_its_outcome_are_erased_together(log: Journal) -> None:
    origin = request(raw=b'{"text":"%s"}' % SECRET.encode(), subject=ALICE)
    entry = Entry(stream="note/1", name="note:written", data=b'{"text":"%s"}' % SECRET.encode())
    outcome = Outcome(True, b'{"text":"%s"}' % SECRET.encode())
    await written(log, Unit(origin=origin, request=True, entries=[entry], outcome=outcome))
    known = await log.find(origin.event_id)
    assert known is not None
    assert (known.request.raw, known.outcome) == (origin.raw, outcome)
    asked, fact, ended = await listed(log.read_all(EVERYTHING))
    assert [each.data for each in (asked, fact)] == [{"text": SECRET}] * 2
    assert ended.data == {"data": {"text": SECRET}, "ok": True}
    await log.erase_subject(ALICE)
    assert [each.data for each in await listed(log.read_all(EVERYTHING))] == [None, None, None]
    known = await log.find(origin.event_id)
    assert known is not None
    assert (known.request.raw, known.outcome) == (b"null", Outcome(True, b"null"))


async def test_what_a_request_has_read_is_erased_with_its_outcome(log: Journal) -> None:
    origin = request(subject=ALICE)
    reads = {"reads": f'[["notes",["1"],"{SECRET}"]]', "reads_at": 7}
    await written(log, Unit(origin=origin, request=True, outcome=Outcome(True, b"{}", reads)))
    *_, ended = await listed(log.read_all(EVERYTHING))
    assert ended.metadata.items() >= reads.items()
    known = await log.find(origin.event_id)
    assert known is not None
    assert known.outcome == Outcome(True, b"{}", reads)
    await log.erase_subject(ALICE)
    *_, ended = await listed(log.read_all(EVERYTHING))
    assert (ended.metadata["reads_at"], "reads" in ended.metadata) == (7, False)


async def test_no_file_holds_what_was_read_for_a_subject(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        outcome = Outcome(True, b"{}", {"reads": f'[["notes",["1"],"{SECRET}"]]'})
        await written(store, Unit(origin=request(subject=ALICE), request=True, outcome=outcome))
        assert holding(tmp_path, SECRET) == []


async def test_a_failure_is_sealed_too(log: Journal) -> None:
    origin = request(subject=ALICE)
    error = b'{"code":"x","details":{},"message":"%s"}' % SECRET.encode()
    await written(log, Unit(origin=origin, request=True, outcome=Outcome(False, error)))
    *_, ended = await listed(log.read_all(EVERYTHING))
    assert ended.data == {"error": {"code": "x", "details": {}, "message": SECRET}, "ok": False}


async def test_views_are_built_again_without_it(log: Journal) -> None:
    log.register(CounterView)
    await written(log, command("counter/a", subject=BOB))
    await written(log, command("counter/a", subject=ALICE))
    assert await log.view(CounterView).get("a") == Counter("a", 2)
    assert await log.erase_subject(ALICE) == Erased(ALICE, 3, [CounterView.name])
    assert await log.view(CounterView).get("a") == Counter("a", 1)
    await written(log, command("counter/a"))
    assert await log.view(CounterView).get("a") == Counter("a", 2)


async def test_an_event_that_a_view_can_not_take_without_it_is_passed_over(log: Journal) -> None:
    class Strict(CounterView):
        name = "strict"

        def apply(self, writer: Any, event: RecordedEvent) -> None:
            assert event.version == 1 or writer.get("a") is not None, "it was never begun"
            super().apply(writer, event)

    log.register(Strict)
    await log.append("counter/a", [added(subject=ALICE)])
    await log.append("counter/a", [added()])
    await log.append("counter/b", [added()])
    await log.erase_subject(ALICE)
    assert [record.id for record in (await log.view(Strict).scan()).records] == ["b"]


async def test_a_view_does_not_see_what_is_erased(log: Journal) -> None:
    class Seen(CounterView):
        name = "seen"

        def apply(self, writer: Any, event: RecordedEvent) -> None:
            writer.put(Counter(event.stream, event.version))

    log.register(Seen)
    await log.append("counter/a", [added(subject=BOB), added(subject=ALICE)])
    await log.erase_subject(ALICE)
    assert (await log.view(Seen).scan()).records == [Counter("counter/a", 1)]


async def test_folds_go_on_without_it(log: Journal) -> None:
    await log.append("note/1", [note("first", BOB), note()])
    await log.erase_subject(ALICE)
    state = (await TimeTravelDebugger(log).entity_at("note/1")).state
    assert state["latest"] == {"text": "first"}
    assert dict(await TimeTravelDebugger(log).reconstruct_state(await log.head() or 0)) == {"note/1": state}  # type: ignore[arg-type]
    await log.erase_subject(BOB)
    with pytest.raises(NotFoundError):
        await TimeTravelDebugger(log).entity_at("note/1")


async def test_what_is_on_a_branch_is_erased_with_the_rest(log: Journal) -> None:
    await log.append("note/1", [note()])
    head = await log.head()
    assert head is not None
    await log.fork(head, "exp")
    await log.append("note/1", [note()], branch="exp")
    assert (await log.erase_subject(ALICE)).events == 2
    assert [event.data for event in await listed(log.read_stream("note/1", branch="exp"))] == [None, None]


async def test_to_erase_what_is_not_there_is_no_error(log: Journal) -> None:
    assert await log.erase_subject("person/nobody") == Erased("person/nobody", 0, [])


async def test_the_same_append_again_is_still_the_same(log: Journal) -> None:
    event = note(event_id=uuid4())
    first = await log.append("note/1", [event])
    again = await log.append("note/1", [event])
    assert (again.positions, again.deduplicated) == (first.positions, True)


# ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_no_file_of_the_server_holds_it_once_it_is_erased(
    tmp_path: Path, postgres: PostgresServer, url: str
) -> None:
    record = f'"id":"{SECRET}'
    async with PostgresEventStore.open(url, keys=tmp_path / "keys") as store:
        store.register(CounterView)
        for number in range(50):
            await store.append(f"counter/{SECRET}{number}", [added(subject=ALICE)])
        await TimeTravelDebugger(store).entity_at(f"counter/{SECRET}1")
        await store.views_written()
        postgres.execute("ANALYZE")
        ((stored,),) = postgres.execute('SELECT min(data::text) FROM ksi."view:counters"')
        assert record in stored
        await store.erase_subject(ALICE)
        postgres.execute("CHECKPOINT")
        assert holding(postgres.directory, record) == []
        assert await store.verify() == []


async def test_whoever_has_no_keys_reads_what_is_sealed_like_what_was_erased(tmp_path: Path, url: str) -> None:
    async with (
        PostgresEventStore.open(url, keys=tmp_path / "keys") as owner,
        PostgresEventStore.open(url, access="read") as reader,
    ):
        await owner.append("note/1", [note(), note("plain", None)])
        await reader.catch_up()
        assert [event.data for event in await listed(reader.read_stream("note/1"))] == [None, {"text": "plain"}]
    async with PostgresEventStore.open(url, keys=tmp_path / "others") as elsewhere:
        (problem,) = await elsewhere.verify()
        assert "1 payloads are sealed" in problem
    async with PostgresEventStore.open(url, keys=tmp_path / "keys") as again:
        assert [event.data for event in await listed(again.read_stream("note/1"))] == [
            {"text": SECRET},
            {"text": "plain"},
        ]


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_no_file_holds_it_once_it_is_erased(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        store.register(CounterView)
        for number in range(300):  # so that records of the view move from page to page
            await store.append(f"counter/{SECRET}{number}", [added(subject=ALICE)])
            await store.append("note/1", [note()])
        await store.views_written()
        await store.append(f"counter/{SECRET}1", [added(subject=ALICE)])
        await store.views_written()
        record = b'"id":"%s' % SECRET.encode()
        assert record in (tmp_path / "events.db-wal").read_bytes()
        await store.erase_subject(ALICE)
        assert holding(tmp_path, record.decode()) == []
        assert holding(tmp_path, f'"{SECRET}"') == []
    assert holding(tmp_path, record.decode()) == []


async def test_the_key_is_in_a_file_of_its_owner_and_in_none_when_it_is_destroyed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        await store.append("note/1", [note("plain", None)])
        assert not keys_of(path).exists()
        await store.append("note/1", [note()])
        assert stat.S_IMODE(keys_of(path).stat().st_mode) == 0o600
        (secret,) = apsw.Connection(str(keys_of(path))).execute("SELECT secret FROM keys").fetchone() or (b"",)
        assert secret in keys_of(path).read_bytes()
        await store.erase_subject(ALICE)
        assert secret not in keys_of(path).read_bytes()
    assert ALICE.encode() not in keys_of(path).read_bytes()


async def test_it_is_as_it_was_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        await store.append("note/1", [note(), note("mine", BOB)])
        await written(store, command("counter/a", subject=ALICE))
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert next(iter(await listed(store.read_stream("note/1")))).data == {"text": SECRET}
        assert await store.view(CounterView).get("a") == Counter("a", 1)
        await store.erase_subject(ALICE)
    async with SqliteEventStore.open(path) as store:
        store.register(CounterView)
        assert [event.data for event in await listed(store.read_stream("note/1"))] == [None, {"text": "mine"}]
        assert await store.view(CounterView).get("a") is None
        assert await store.verify() == []
    assert verify_file(path).problems == []


async def test_without_its_keys_a_copy_says_so_and_with_them_it_is_whole(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await store.append("note/1", [note()])
        await store.backup(tmp_path / "copy.db", keys=tmp_path / "copy.keys")
        assert holding(tmp_path, SECRET) == []
    restore(tmp_path / "copy.db", tmp_path / "one" / "events.db", tmp_path / "copy.keys")
    restore(tmp_path / "copy.db", tmp_path / "other" / "events.db")
    assert verify_file(tmp_path / "one" / "events.db").problems == []
    (problem,) = verify_file(tmp_path / "other" / "events.db").problems
    assert "1 payloads are sealed" in problem
    async with SqliteEventStore.open(tmp_path / "one" / "events.db") as store:
        assert (await the_only(store)).data == {"text": SECRET}


async def test_a_copy_of_before_can_not_be_read_with_the_keys_of_after(tmp_path: Path) -> None:
    async with SqliteEventStore.open(tmp_path / "events.db") as store:
        await store.append("note/1", [note()])
        await store.backup(tmp_path / "before.db")
        await store.erase_subject(ALICE)
        await store.backup(tmp_path / "after.db", keys=tmp_path / "after.keys")
    restore(tmp_path / "before.db", tmp_path / "again" / "events.db", tmp_path / "after.keys")
    async with SqliteEventStore.open(tmp_path / "again" / "events.db") as store:
        assert (await the_only(store)).data is None
        assert await store.verify() == []
