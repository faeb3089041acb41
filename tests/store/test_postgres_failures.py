"""The log on PostgreSQL when its connection, its server or its ownership goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from ksi.core import ids
from ksi.core.errors import CheckpointConflictError, LogDamagedError, LogLockedError, UnavailableError
from ksi.core.events import Appended, Filter, Position, StreamAppend
from ksi.core.ports import Entry, Outcome, Unit
from ksi.store import postgres_notify, postgres_shared, postgres_writer, shelf
from ksi.store.postgres_log import PostgresEventStore
from ksi.testing.counters import COUNTER, Counter, CounterView, added, command, listed, request, submitted
from ksi.testing.postgres import PORT, PostgresServer
from tests.store.crowd import NOTIFY, without
from tests.store.severing import severing

KILL_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ksi %'"


async def totals(store: PostgresEventStore) -> list[int]:
    return [event.data["amount"] for event in await listed(store.read_all())]


# ── who has it ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_second_owner_is_refused_with_the_name_of_the_first(url: str) -> None:
    async with PostgresEventStore.open(url):
        with pytest.raises(LogLockedError) as caught:
            async with PostgresEventStore.open(url):
                pass
        assert f"pid {os.getpid()}" in caught.value.holder
        assert "postgres@" not in caught.value.path
    async with PostgresEventStore.open(url):
        pass


async def test_what_comes_late_to_one_that_is_closed_takes_the_log_from_nobody(url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        await store.append("counter/a", [added(1)])
    for late in (lambda: store._writer.within(lambda connection: None), lambda: store._point.rows("SELECT 1")):
        with pytest.raises(UnavailableError, match="closed"):
            late()
    async with PostgresEventStore.open(url) as store:
        assert await totals(store) == [1]


async def test_an_owner_and_one_that_shares_exclude_each_other(url: str) -> None:
    async with PostgresEventStore.open(url):
        with pytest.raises(LogLockedError):
            async with PostgresEventStore.open(url, access="share"):
                pass
    async with PostgresEventStore.open(url, access="share"), PostgresEventStore.open(url, access="share"):
        with pytest.raises(LogLockedError):
            async with PostgresEventStore.open(url):
                pass


async def test_a_reader_follows_an_owner_by_the_doorbell_and_can_not_write(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_notify, "POLL", 3600.0)
    async with PostgresEventStore.open(url) as owner, PostgresEventStore.open(url, access="read") as reader:
        async with reader.subscribe(after="start") as events:
            for number in range(3):
                coming = asyncio.ensure_future(anext(aiter(events)))
                await owner.append("counter/a", [added(number)])
                assert (await coming).data == {"amount": number}
        with pytest.raises(UnavailableError):
            await reader.append("counter/a", [added()])
        assert reader.is_read_only


async def test_a_database_without_a_log_can_not_be_read(url: str) -> None:
    with pytest.raises(UnavailableError):
        async with PostgresEventStore.open(url, access="read"):
            pass


async def test_an_owner_that_was_cut_off_and_replaced_writes_no_more(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as first:
        await first.append("counter/a", [added(1)])
        postgres.execute(KILL_ALL)
        async with PostgresEventStore.open(url) as second:
            await second.append("counter/a", [added(2)])
        with pytest.raises(LogLockedError):
            await first.append("counter/a", [added(3)])
        assert first.is_read_only
    async with PostgresEventStore.open(url) as third:
        assert await totals(third) == [1, 2]


# ── several that write ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
async def deaf(postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log whose doorbell does not ring: what others wrote is found out in time all the same."""
    monkeypatch.setattr(postgres_notify, "POLL", 3600.0)
    async with PostgresEventStore.open(url):
        without(postgres, NOTIFY)
    return url


async def test_what_another_wrote_is_no_false_conflict(deaf: str) -> None:
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        for number in range(1, 9):
            writer = one if number % 2 else other
            appended = await writer.append("counter/a", [added(number)], expected_version=number - 1)
            assert appended.versions == (number,)
        await one.catch_up()
        assert await totals(one) == list(range(1, 9))


async def test_an_id_that_another_wrote_is_known(deaf: str) -> None:
    event = added(5, event_id=UUID(bytes=ids.new_id()))
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        first, again = await asyncio.gather(one.append("counter/a", [event]), other.append("counter/a", [event]))
        assert first.positions == again.positions
        assert {first.deduplicated, again.deduplicated} == {False, True}


async def test_requests_of_others_are_open_and_can_be_closed(deaf: str) -> None:
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        origin = request()
        fact = Entry(stream="counter/a", name=COUNTER, data=b'{"amount":1}')
        await submitted(one, Unit(origin=origin, request=True))
        await submitted(other, Unit(origin=origin, entries=[fact], outcome=Outcome(True, b"{}")))
        await one.catch_up()
        assert await listed(one.open_requests()) == []
        known = await one.find(origin.event_id)
        assert known is not None
        assert known.outcome == Outcome(True, b"{}")
        assert await totals(one) == [1]


async def test_views_of_all_show_what_all_wrote(deaf: str) -> None:
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        for store in (one, other):
            store.register(CounterView)
        await asyncio.gather(*[(one, other)[n % 2].append("counter/a", [added(1)]) for n in range(20)])
        for store in (one, other):
            await store.catch_up()
            assert (await store.view(CounterView).get("a")).total == 20  # type: ignore[union-attr]  # it is there


async def test_a_branch_that_another_cut_off_is_there(deaf: str) -> None:
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        one.register(CounterView)
        await one.append("counter/a", [added(1)])
        await one.fork(Position(1), "exp")
        await other.catch_up()
        appended = await other.append("counter/a", [added(2)], branch="exp", expected_version=1)
        assert appended.versions == (2,)
        await one.catch_up()
        assert await one.version("counter/a", branch="exp") == 2
        assert (await one.view(CounterView).get("a")).total == 1  # type: ignore[union-attr]  # it is there


async def test_a_checkpoint_that_another_moved_is_a_conflict(deaf: str) -> None:
    async with (
        PostgresEventStore.open(deaf, access="share") as one,
        PostgresEventStore.open(deaf, access="share") as other,
    ):
        first = Position((await one.append("note/1", [added(), added()])).positions[0])
        ends = await asyncio.gather(
            *[
                store.append_all([StreamAppend("counter/a", [added()])], checkpoint=("s", first))
                for store in (one, other)
            ],
            return_exceptions=True,
        )
        assert {type(end) for end in ends} == {Appended, CheckpointConflictError}
        await one.append_all((), checkpoint=("s", Position(first + 2)))
        with pytest.raises(CheckpointConflictError):
            await other.append_all((), checkpoint=("s", Position(first + 1)))
        await other.reset_checkpoint("s", None)
        await one.reset_checkpoint("s", Position(2))
        await other.catch_up()
        assert await other.checkpoint("s") == 2


@pytest.fixture
def directory() -> Iterator[Path]:
    """One with a name that is short enough for a socket in it."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


# ── the connection, the server ───────────────────────────────────────────────────────────────────────────────────────
async def test_a_commit_whose_answer_is_lost_is_stored_once(
    postgres: PostgresServer, url: str, directory: Path
) -> None:
    with severing(postgres.directory, directory) as socket:
        async with PostgresEventStore.open(f"postgresql://postgres@/postgres?host={directory}&port={PORT}") as store:
            for number in range(3):
                socket.wanted = COUNTER.encode()
                appended = await store.append("counter/a", [added(number)], expected_version=number)
                assert not appended.deduplicated
            assert socket.severed == 3
            assert await totals(store) == [0, 1, 2]
            assert await store.verify() == []


async def test_connections_that_are_cut_off_are_made_again(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        for number in range(5):
            postgres.execute(KILL_ALL)
            await store.append("counter/a", [added(number)], expected_version=number)
        assert await totals(store) == list(range(5))


async def test_a_server_that_is_restarted_in_the_middle_loses_and_doubles_nothing(own_postgres: PostgresServer) -> None:
    async with PostgresEventStore.open(own_postgres.url("postgres")) as store:
        acknowledged: list[int] = []
        is_back = asyncio.Event()

        async def append() -> None:
            while not is_back.is_set():
                number = len(acknowledged) + 1
                appended = await store.append("counter/a", [added(number)], expected_version=number)
                acknowledged.extend(appended.positions)

        await store.append("counter/a", [added(0)])
        appending = asyncio.ensure_future(append())
        await asyncio.to_thread(own_postgres.stop)
        await asyncio.to_thread(own_postgres.start)
        is_back.set()
        await appending
        assert acknowledged
        assert await totals(store) == list(range(len(acknowledged) + 1))
        assert await store.verify() == []


async def test_while_there_is_no_server_writing_is_refused_and_then_goes_on(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "RETRY_FOR", 0.1)
    monkeypatch.setattr(postgres_shared, "PROBE_PAUSE", 0.0)
    async with PostgresEventStore.open(own_postgres.url("postgres")) as store:
        store.register(CounterView)
        await store.append("counter/a", [added(1)])
        own_postgres.stop()
        with pytest.raises(UnavailableError):
            await store.append("counter/a", [added(2)])
        assert store.read_only_reason is not None
        assert (await store.view(CounterView).get("a")).total == 1  # type: ignore[union-attr]  # it is in memory
        own_postgres.start()
        async with asyncio.timeout(10):
            while store.is_read_only:  # to ask for it is to have it looked at
                await store.bell.wait()
        await store.append("counter/a", [added(3)])
        assert await totals(store) == [1, 3]
    async with PostgresEventStore.open(own_postgres.url("postgres")) as store:
        store.register(CounterView)
        assert (await store.view(CounterView).get("a")).total == 4  # type: ignore[union-attr]  # it is there


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_acknowledged_commits_that_are_gone_stop_the_writer(postgres: PostgresServer, url: str) -> None:
    """As after a failover to a server that had not got them yet."""
    async with PostgresEventStore.open(url) as store:
        await store.append("counter/a", [added(1)])
        await store.append("counter/a", [added(2)])
        postgres.execute("DELETE FROM ksi.commits WHERE last = 2; DELETE FROM ksi.log WHERE last = 2")
        with pytest.raises(LogDamagedError):
            await store.append("counter/a", [added(3)])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ksi.log SET body = set_byte(body, 10, get_byte(body, 10) # 1) WHERE last = 3",
        "DELETE FROM ksi.log WHERE last = 3",
        "UPDATE ksi.commits SET hash = hash || 'x' WHERE last = 3",
        "DELETE FROM ksi.keys WHERE last = 3",
        "DELETE FROM ksi.streams WHERE last = 3",
        "UPDATE ksi.ids SET pos = 9 WHERE pos = 1",
        "INSERT INTO ksi.open VALUES ('0123456789abcdef', 1)",
        "INSERT INTO ksi.checkpoints VALUES ('s1', 1000)",
    ],
)
async def test_verify_finds_what_is_wrong(postgres: PostgresServer, url: str, damage: str) -> None:
    async with PostgresEventStore.open(url) as store:
        for number in range(5):
            await submitted(store, command(amount=number))
        assert await store.verify() == []
        postgres.execute(damage)
        assert len(await store.verify()) == 1


async def test_a_row_that_is_gone_is_missed_by_who_is_led_to_it(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        for number in range(5):
            await store.append("counter/a", [added(number)])
        await store.keys_written()  # so that nothing is in memory
        postgres.execute("DELETE FROM ksi.log WHERE last = 3")
        with pytest.raises(LogDamagedError) as caught:
            await listed(store.read_stream("counter/a"))
        assert caught.value.position == 2


async def test_a_log_that_is_not_what_was_written_is_not_opened(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        await store.append("counter/a", [added(1)])
    postgres.execute("UPDATE ksi.log SET body = set_byte(body, 10, get_byte(body, 10) # 1)")
    with pytest.raises(LogDamagedError):
        async with PostgresEventStore.open(url):
            pass
    postgres.execute("UPDATE ksi.meta SET value = 'x' WHERE key = 'version'")
    with pytest.raises(LogDamagedError):
        async with PostgresEventStore.open(url):
            pass


async def test_keys_of_an_older_ksi_are_written_anew(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        await submitted(store, command(amount=5))
    postgres.execute("TRUNCATE ksi.keys; TRUNCATE ksi.names; UPDATE ksi.meta SET value = '0' WHERE key = 'keys'")
    async with PostgresEventStore.open(url) as store:
        assert len(await listed(store.read_all([Filter(names=("counter:*",))]))) == 1
        assert await store.verify() == []


# ── other programs ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_records_of_views_are_tables_that_others_can_read(postgres: PostgresServer, url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        store.register(CounterView)
        await store.append("counter/a", [added(3)])
        await store.append("counter/b", [added(4)])
    rows = postgres.execute("""SELECT data->>'id', (data->>'total')::int FROM ksi."view:counters" ORDER BY place""")
    assert rows == [("a", 3), ("b", 4)]


@pytest.mark.parametrize("also", ["", "; DROP TABLE ksi.views"])
async def test_a_view_whose_table_somebody_has_dropped_is_built_again(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, also: str
) -> None:
    monkeypatch.setattr(shelf, "RECENT_MAX", 0)  # so that each record is asked for
    async with PostgresEventStore.open(url) as store:
        store.register(CounterView)
        await store.append("counter/a", [added(3)])
    postgres.execute(f'DROP TABLE ksi."view:counters"{also}')
    async with PostgresEventStore.open(url) as store:
        store.register(CounterView)
        assert await store.view(CounterView).get("a") == Counter("a", 3)
        await store.views_written()
        postgres.execute('DROP TABLE ksi."view:counters"')
        with pytest.raises(UnavailableError, match="built again"):
            await store.view(CounterView).get("a")
        await asyncio.gather(*store.projections._mending)
        assert await store.view(CounterView).get("a") == Counter("a", 3)


# ── what a crash of the server takes with it ─────────────────────────────────────────────────────────────────────────
async def test_records_that_the_server_has_lost_are_neither_served_nor_written_over_but_built_again(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "RECENT_MAX", 1)  # so that all but the newest record are asked for
    async with PostgresEventStore.open(own_postgres.url("postgres")) as store:
        store.register(CounterView)
        for name in "abc":
            await store.append(f"counter/{name}", [added()])
        await store.views_written()
        crash(own_postgres)
        with pytest.raises(UnavailableError):
            await store.view(CounterView).get("a")
        assert await mended(store) == [Counter("a", 1), Counter("b", 1), Counter("c", 1)]
        crash(own_postgres)
        await store.append("counter/c", [added()])
        await store.views_written()
        assert await mended(store) == [Counter("a", 1), Counter("b", 1), Counter("c", 2)]
        assert await store.verify() == []


def crash(server: PostgresServer) -> None:
    server.stop(signal.SIGQUIT)
    server.start()


async def mended(store: PostgresEventStore) -> list[Counter]:
    """All records, once they are built again."""
    await asyncio.gather(*store.projections._mending)
    return list((await store.view(CounterView).scan()).records)
