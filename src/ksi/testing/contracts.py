"""What every event log promises, as tests: inherit :class:`EventLogContract` and give the fixture ``store``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    AppendConditionError,
    CheckpointConflictError,
    EventIdConflictError,
    EventTimeoutError,
    InternalError,
    KSIError,
    NotFoundError,
    StoreClosedError,
    SubscriptionDroppedError,
    ValidationError,
    WrongExpectedVersionError,
)
from ksi.core.events import (
    NO_STREAM,
    ROOT,
    STREAM_EXISTS,
    AppendCondition,
    Filter,
    Lag,
    NewEvent,
    Position,
    RecordedEvent,
    StreamAppend,
)
from ksi.core.ports import Committed, Entry, Journal, Outcome, Subscription, Unit
from ksi.core.views import View, ViewWriter

T = TypeVar("T")
COUNTER = "counter:added"
ALL_KINDS = Filter(kinds=("fact", "request", "outcome", "chunk"))


class Counter(msgspec.Struct, frozen=True):
    id: str
    total: int


class CounterView(View[Counter]):
    """Sums the amounts of each counter."""

    name = "counters"
    query = (Filter(names=(COUNTER,)),)
    record = Counter
    key = ("id",)
    indexes: ClassVar[Mapping[str, tuple[str, ...]]] = {"by_total": ("total",)}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        amount = event.data["amount"]
        if amount == "poison":
            raise RuntimeError("this amount can not be added")
        name = event.stream.partition("/")[2]
        if amount is None:
            writer.delete(name)
            return
        known = writer.get(name)
        writer.put(Counter(name, amount + (known.total if known else 0)))


def added(amount: Any = 1, **more: Any) -> NewEvent:
    return NewEvent(name=COUNTER, data={"amount": amount}, **more)


async def listed(events: AsyncIterator[T]) -> list[T]:
    return [event async for event in events]


async def written(store: Journal, unit: Unit) -> Committed:
    """The end of ``unit``, raised where it failed."""
    return await submitted(store, unit)


def submitted(store: Journal, unit: Unit) -> asyncio.Future[Committed]:
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def done(committed: Committed | None, error: KSIError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            assert committed is not None
            future.set_result(committed)

    store.write(unit, done)
    return future


def request(name: str = "counter:add", raw: bytes = b'{"amount":1}', **fields: Any) -> EventEnvelope:
    return EventEnvelope(name=name, raw=raw, id=fields.pop("id", None) or ids.new_id(), **fields)


def command(stream: str = "counter/a", amount: int = 1, **fields: Any) -> Unit:
    """A request with one fact and its outcome."""
    return Unit(
        origin=request(**fields),
        request=True,
        entries=[Entry(stream=stream, name=COUNTER, data=b'{"amount":%d}' % amount)],
        outcome=Outcome(True, b'{"total":%d}' % amount),
    )


class AppendContract:
    """Appending and reading back."""

    async def test_an_append_gives_positions_and_versions_from_one(self, store: Journal) -> None:
        appended = await store.append("counter/a", [added(), added(2)])
        assert appended.versions == (1, 2)
        assert appended.positions[0] >= 1
        assert appended.positions[1] > appended.positions[0]
        assert not appended.deduplicated
        assert appended.durable == store.durable

    async def test_what_was_appended_is_read_back_as_it_was(self, store: Journal) -> None:
        moment = utc(1_700_000_000_123_456)
        cause, event_id = uuid4(), UUID(bytes=ids.new_id())
        event = NewEvent(
            name="note:written",
            data={"text": "grüß dich \N{GRINNING FACE}", "n": 1.5},
            event_id=event_id,
            tags=frozenset({"agent:a1", "run:r7"}),
            schema_version=3,
            correlation_id="run-7",
            causation_id=cause,
            subject="person/1",
            occurred_at=moment,
            metadata={"weight": 2},
        )
        await store.append("note/1", [event])
        (read,) = await listed(store.read_stream("note/1"))
        assert read.data == event.data
        assert (read.name, read.stream, read.version, read.kind) == ("note:written", "note/1", 1, "fact")
        assert (read.event_id, read.causation_id, read.correlation_id) == (event_id, cause, "run-7")
        assert (read.tags, read.schema_version, read.subject) == (event.tags, 3, "person/1")
        assert read.occurred_at == moment
        assert read.metadata == {"weight": 2}
        assert read.recorded_at.utcoffset() == timedelta(0)
        assert await store.get(event_id) == read
        assert await store.at(read.position) == read

    async def test_an_event_without_run_and_cause_has_none(self, store: Journal) -> None:
        await store.append("counter/a", [added()])
        (read,) = await listed(store.read_stream("counter/a"))
        assert (read.correlation_id, read.causation_id, dict(read.metadata)) == (None, None, {})

    async def test_every_event_has_an_id_by_which_it_is_found(self, store: Journal) -> None:
        await store.append("counter/a", [added(n) for n in range(100)])
        events = await listed(store.read_stream("counter/a"))
        assert len({event.event_id for event in events}) == 100
        assert [await store.get(event.event_id) for event in events] == events

    async def test_nothing_happens_when_nothing_is_appended(self, store: Journal) -> None:
        appended = await store.append("counter/a", [], expected_version=7)
        assert (appended.positions, appended.versions) == ((), ())
        assert await store.head() is None
        await store.append("counter/a", [added()], expected_version=NO_STREAM)

    async def test_an_empty_log_has_no_head(self, store: Journal) -> None:
        assert await store.head() is None
        assert await listed(store.read_all()) == []
        assert await store.get(uuid4()) is None
        assert await store.at(Position(1)) is None
        assert await store.version("counter/a") == 0

    async def test_the_wrong_version_is_refused_with_both_numbers(self, store: Journal) -> None:
        await store.append("counter/a", [added()])
        with pytest.raises(WrongExpectedVersionError) as caught:
            await store.append("counter/a", [added()], expected_version=5)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("counter/a", 5, 1)
        assert len(await listed(store.read_stream("counter/a"))) == 1

    async def test_states_of_a_stream_can_be_expected(self, store: Journal) -> None:
        with pytest.raises(WrongExpectedVersionError):
            await store.append("counter/a", [added()], expected_version=STREAM_EXISTS)
        await store.append("counter/a", [added()], expected_version=NO_STREAM)
        await store.append("counter/a", [added()], expected_version=STREAM_EXISTS)
        with pytest.raises(WrongExpectedVersionError):
            await store.append("counter/a", [added()], expected_version=NO_STREAM)

    async def test_of_two_writers_in_one_turn_one_loses(self, store: Journal) -> None:
        both = await asyncio.gather(
            store.append("counter/a", [added()], expected_version=0),
            store.append("counter/a", [added()], expected_version=0),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in both] == ["Appended", "WrongExpectedVersionError"]

    async def test_a_refused_new_stream_begins_again_at_one(self, store: Journal) -> None:
        appends = [StreamAppend("counter/new", [added()]), StreamAppend("counter/a", [added()], 9)]
        with pytest.raises(WrongExpectedVersionError):
            await store.append_all(appends)
        assert (await store.append("counter/new", [added()])).versions == (1,)

    async def test_several_streams_are_appended_together_or_not_at_all(self, store: Journal) -> None:
        appended = await store.append_all(
            [StreamAppend("counter/a", [added(), added()]), StreamAppend("counter/b", [added()])]
        )
        assert appended.versions == (1, 2, 1)
        with pytest.raises(WrongExpectedVersionError):
            await store.append_all([StreamAppend("counter/a", [added()]), StreamAppend("counter/b", [added()], 7)])
        assert await store.version("counter/a") == 2

    async def test_requests_have_a_stream_to_which_nobody_appends(self, store: Journal) -> None:
        with pytest.raises(ValidationError):
            await store.append("$requests", [added()])

    @pytest.mark.parametrize("data", [{"text": "\ud800"}, {"n": float("nan")}, b"{", b'"\xff"'])
    async def test_what_has_no_exact_json_is_refused_and_leaves_nothing(self, store: Journal, data: Any) -> None:
        with pytest.raises(ValidationError):
            await store.append("counter/a", [NewEvent(name=COUNTER, data=data)])
        assert (await store.append("counter/a", [added()])).versions == (1,)

    async def test_a_lone_surrogate_in_a_name_or_stream_is_refused(self, store: Journal) -> None:
        for stream, name in (("counter/\ud800", COUNTER), ("counter/a", "counter:\ud800")):
            with pytest.raises(ValidationError):
                await store.append(stream, [NewEvent(name=name, data={})])
        assert (await store.append("counter/a", [added()])).versions == (1,)

    async def test_another_branch_is_not_found(self, store: Journal) -> None:
        with pytest.raises(NotFoundError):
            await store.append("counter/a", [added()], branch="what-if")
        with pytest.raises(NotFoundError):
            await listed(store.read_all(branch="what-if"))
        assert [branch.name for branch in await store.branches()] == ["main"]

    async def test_a_closed_store_says_so(self, store: Journal) -> None:
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.append("counter/a", [added()])


class IdempotenceContract:
    """The same id twice."""

    async def test_a_retry_gives_the_old_positions(self, store: Journal) -> None:
        events = [added(event_id=UUID(bytes=ids.new_id())), added(2, event_id=uuid4())]
        first = await store.append("counter/a", events, expected_version=0)
        again = await store.append("counter/a", events, expected_version=0)
        assert again.deduplicated
        assert (again.positions, again.versions) == (first.positions, first.versions)
        assert len(await listed(store.read_all())) == 2

    async def test_a_retry_while_the_first_is_under_way_waits_for_it(self, store: Journal) -> None:
        event = added(event_id=UUID(bytes=ids.new_id()))
        first, again = await asyncio.gather(
            store.append("counter/a", [event], expected_version=0),
            store.append("counter/a", [event], expected_version=0),
        )
        assert (again.positions, again.deduplicated) == (first.positions, True)

    @pytest.mark.parametrize("change", [{"data": {"amount": 9}}, {"name": "other:name"}, {"tags": frozenset({"x:y"})}])
    async def test_the_same_id_with_other_content_is_a_conflict(self, store: Journal, change: dict[str, Any]) -> None:
        event = added(event_id=uuid4())
        await store.append("counter/a", [event])
        with pytest.raises(EventIdConflictError) as caught:
            await store.append("counter/a", [msgspec.structs.replace(event, **change)])
        assert caught.value.event_id == str(event.event_id)
        with pytest.raises(EventIdConflictError):
            await store.append("counter/other", [event])

    async def test_half_a_batch_is_a_conflict(self, store: Journal) -> None:
        known = added(event_id=uuid4())
        await store.append("counter/a", [known])
        for batch in ([known, added(event_id=uuid4())], [known, added()]):
            with pytest.raises(EventIdConflictError):
                await store.append("counter/a", batch)
        assert len(await listed(store.read_all())) == 1

    async def test_an_id_twice_in_one_batch_is_a_conflict(self, store: Journal) -> None:
        event = added(event_id=uuid4())
        with pytest.raises(EventIdConflictError):
            await store.append("counter/a", [event, event])
        assert await store.head() is None

    async def test_the_derived_id_of_an_event_can_not_be_used_again(self, store: Journal) -> None:
        await written(store, command())
        (fact,) = await listed(store.read_all())
        with pytest.raises(EventIdConflictError):
            await store.append("counter/b", [added(7, event_id=fact.event_id)])


class ConditionContract:
    """Dynamic consistency boundary."""

    async def test_an_append_fails_where_a_forbidden_event_is(self, store: Journal) -> None:
        taken = await store.append("user/1", [NewEvent(name="user:named", data={}, tags=frozenset({"name:ada"}))])
        forbidden = AppendCondition([Filter(tags=frozenset({"name:ada"}))])
        with pytest.raises(AppendConditionError) as caught:
            await store.append("user/2", [added()], condition=forbidden)
        assert caught.value.conflicting == taken.positions[0]
        await store.append("user/2", [added()], condition=AppendCondition([Filter(tags=frozenset({"name:bob"}))]))

    async def test_only_events_after_the_position_count(self, store: Journal) -> None:
        first = await store.append("counter/a", [added()])
        query = [Filter(names=("counter:*",), streams=("counter/*",))]
        await store.append("counter/b", [added()], condition=AppendCondition(query, first.positions[0]))
        with pytest.raises(AppendConditionError):
            await store.append("counter/c", [added()], condition=AppendCondition(query, first.positions[0]))

    async def test_a_condition_sees_what_is_under_way(self, store: Journal) -> None:
        condition = AppendCondition([Filter(names=(COUNTER,))])
        both = await asyncio.gather(
            store.append("counter/a", [added()], condition=condition),
            store.append("counter/b", [added()], condition=condition),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in both] == ["Appended", "AppendConditionError"]


class ReadContract:
    """Reading by stream, query, position and time."""

    @pytest.fixture
    async def filled(self, store: Journal) -> Journal:
        for n in range(10):
            tags = frozenset({f"parity:{n % 2}", "all:yes"})
            await store.append(f"counter/{n % 3}", [added(n, tags=tags, correlation_id=f"run-{n % 2}")])
        await store.append("note/1", [NewEvent(name="note:written", data={})])
        return store

    async def test_a_stream_is_read_by_version_both_ends_included(self, filled: Journal) -> None:
        async def versions(**how: Any) -> list[int]:
            return [event.version for event in await listed(filled.read_stream("counter/0", **how))]

        assert await versions() == [1, 2, 3, 4]
        assert await versions(from_version=2, to_version=3) == [2, 3]
        assert await versions(backwards=True, limit=2) == [4, 3]
        assert await versions(from_version=2, backwards=True) == [4, 3, 2]
        assert await versions(limit=0) == []
        assert await versions(from_version=9) == []

    async def test_less_than_nothing_is_no_limit(self, filled: Journal) -> None:
        with pytest.raises(ValidationError, match="limit: -1"):
            await listed(filled.read_stream("counter/0", limit=-1))
        with pytest.raises(ValidationError, match="limit: -1"):
            await listed(filled.read_all(limit=-1))

    @pytest.mark.parametrize(
        ("query", "amounts"),
        [
            ([Filter(names=("counter:added",))], list(range(10))),
            ([Filter(names=("counter:",), streams=("counter/1",))], [1, 4, 7]),
            ([Filter(streams=("counter/*",), tags=frozenset({"parity:1"}))], [1, 3, 5, 7, 9]),
            ([Filter(tags=frozenset({"parity:1", "all:yes"}), streams=("counter/0",))], [3, 9]),
            ([Filter(correlation_id="run-1")], [1, 3, 5, 7, 9]),
            ([Filter(streams=("counter/2",)), Filter(tags=frozenset({"parity:0"}))], [0, 2, 4, 5, 6, 8]),
            ([Filter(names=("nobody:*",))], []),
            ([Filter(kinds=("request",))], []),
        ],
    )
    async def test_queries_give_what_matches_in_order(self, filled: Journal, query: Any, amounts: list[int]) -> None:
        assert [event.data["amount"] for event in await listed(filled.read_all(query))] == amounts
        backwards = await listed(filled.read_all(query, backwards=True))
        assert [event.data["amount"] for event in backwards] == amounts[::-1]

    @pytest.mark.parametrize("backwards", [False, True])
    async def test_requests_and_outcomes_are_found_by_name_tag_and_kind(self, store: Journal, backwards: bool) -> None:
        first, second = command(name="counter:add"), command(name="note:write", cause=ids.new_id(), correlation="run-1")
        first.emits = [request("mail:send", cause=first.origin.event_id, correlation=first.origin.correlation_id)]
        effect = Entry(stream="$effects", name="effect:requested", data=b"{}", kind="request")
        await written(store, first)
        await written(store, second)
        await written(store, Unit(origin=request("mail:send"), request=True, entries=[effect]))
        await written(store, Unit(origin=first.emits[0], outcome=Outcome(True, b"{}")))

        async def found(**fields: Any) -> list[tuple[str, str]]:
            events = await listed(store.read_all((Filter(**fields),), backwards=backwards))
            shown: list[tuple[str, str]] = [(event.name, event.kind) for event in events]
            return shown[::-1] if backwards else shown

        asked, ended = ("mail:send", "request"), ("mail:send", "outcome")
        assert await found(kinds=("request", "outcome"), names=("mail:send",)) == [asked, asked, ended]
        assert await found(kinds=("outcome",), names=("mail:*", "note:*")) == [("note:write", "outcome"), ended]
        assert await found(kinds=("fact", "request"), names=("counter:",)) == [
            ("counter:add", "request"), (COUNTER, "fact"), (COUNTER, "fact"),
        ]  # fmt: skip
        assert await found(kinds=("request",), names=("effect:*",)) == [("effect:requested", "request")]
        assert await found(kinds=("request",), tags=frozenset({ROOT})) == [("counter:add", "request"), asked]
        assert await found(kinds=("fact",), tags=frozenset({ROOT})) == []
        assert len(await found(kinds=("request",))) == 5

    async def test_after_is_left_out_and_until_included(self, filled: Journal) -> None:
        events = await listed(filled.read_all())
        low, high = events[3].position, events[6].position
        assert await listed(filled.read_all(after=low, until=high)) == events[4:7]
        assert await listed(filled.read_all(after=low, until=high, backwards=True, limit=2)) == [events[6], events[5]]
        assert await listed(filled.read_all(after=events[-1].position)) == []
        assert await listed(filled.read_all(after=low, until=low)) == []

    async def test_a_long_read_crosses_pages(self, store: Journal) -> None:
        for start in range(0, 1500, 500):
            await store.append_all([StreamAppend(f"counter/{n % 7}", [added(n)]) for n in range(start, start + 500)])
            await store.append("counter/one", [added(start)])
        amounts = [event.data["amount"] for event in await listed(store.read_all((Filter(streams=("counter/3",)),)))]
        assert amounts == [n for n in range(1500) if n % 7 == 3]
        assert len(await listed(store.read_all())) == 1503
        assert len(await listed(store.read_all(backwards=True, limit=700))) == 700

    async def test_streams_are_listed_with_version_and_position(self, filled: Journal) -> None:
        infos = await listed(filled.streams("counter/"))
        assert [(info.name, info.version) for info in infos] == [("counter/0", 4), ("counter/1", 3), ("counter/2", 3)]
        newest = (await listed(filled.read_stream("counter/1", backwards=True, limit=1)))[0]
        assert infos[1].position == newest.position
        assert await filled.version("counter/0") == 4

    async def test_the_stream_of_requests_is_read_by_position(self, store: Journal) -> None:
        for _ in range(4):
            await written(store, command())
        versions = [1, 3, 4, 6, 7, 9, 10, 12]
        assert [event.version for event in await listed(store.read_stream("$requests"))] == versions
        part = store.read_stream("$requests", from_version=3, to_version=7)
        assert [(event.position, event.kind) for event in await listed(part)] == [
            (3, "outcome"), (4, "request"), (6, "outcome"), (7, "request"),
        ]  # fmt: skip
        newest = store.read_stream("$requests", backwards=True, limit=2)
        assert [event.version for event in await listed(newest)] == [12, 10]
        assert await store.version("$requests") == 12

    async def test_times_of_a_query_are_half_open(self, store: Journal) -> None:
        for number in range(5):
            await store.append("counter/a", [added(number)])
        events = await listed(store.read_all())
        moments = [event.recorded_at for event in events]
        for low, high in ((1, 3), (0, 4), (2, 2)):
            ranged = [Filter(recorded_from=moments[low], recorded_to=moments[high])]
            wanted = [event for event in events if moments[low] <= event.recorded_at < moments[high]]
            assert await listed(store.read_all(ranged)) == wanted
            assert await listed(store.read_all(ranged, backwards=True, limit=1)) == wanted[:-2:-1]
        ages = [Filter(recorded_to=utc(0)), Filter(recorded_from=moments[-1] + timedelta(days=1))]
        assert await listed(store.read_all(ages)) == []
        assert await listed(store.read_all([Filter(recorded_from=utc(0)), Filter(recorded_to=utc(0))])) == events

    async def test_a_time_is_a_position(self, store: Journal) -> None:
        await store.append("counter/a", [added()])
        await store.append("counter/a", [added()])
        first, second = await listed(store.read_all())
        assert second.recorded_at >= first.recorded_at
        assert await store.position_at(second.recorded_at) == second.position
        assert await store.position_at(first.recorded_at - timedelta(seconds=1)) is None
        ranged = [Filter(recorded_from=second.recorded_at, recorded_to=second.recorded_at + timedelta(seconds=1))]
        assert await listed(store.read_all(ranged)) == [second]


class JournalContract:
    """Units of the kernel: requests, facts, emits, outcomes."""

    async def test_a_command_is_one_commit_with_request_fact_and_outcome(self, store: Journal) -> None:
        unit = command(principal="ada", rule="allow-1", path="root.1", traceparent="00-x-y-01", deadline_us=5)
        committed = await written(store, unit)
        asked, fact, outcome = await listed(store.read_all([ALL_KINDS]))
        assert [event.kind for event in (asked, fact, outcome)] == ["request", "fact", "outcome"]
        assert (committed.position, tuple(committed.positions), committed.versions) == (
            outcome.position,
            (fact.position,),
            (1,),
        )
        assert asked.stream == outcome.stream == "$requests"
        assert asked.name == outcome.name == "counter:add"
        assert asked.data == {"amount": 1}
        assert outcome.data == {"ok": True, "data": {"total": 1}}
        assert fact.causation_id == outcome.causation_id == asked.event_id == UUID(bytes=unit.origin.event_id)
        assert {event.correlation_id for event in (asked, fact, outcome)} == {unit.origin.correlation_id}
        assert dict(fact.metadata) == {
            "principal": "ada",
            "source": "ksi",
            "rule": "allow-1",
            "path": "root.1",
            "traceparent": "00-x-y-01",
            "deadline_us": 5,
        }
        for event in (asked, fact, outcome):
            assert await store.get(event.event_id) == event

    async def test_a_closed_request_is_found_with_its_outcome(self, store: Journal) -> None:
        unit = command(principal="ada", path="root.1", priority=3)
        await written(store, unit)
        known = await store.find(unit.origin.event_id)
        assert known is not None
        assert known.outcome == Outcome(True, b'{"total":1}')
        assert (known.request.name, known.request.raw) == ("counter:add", b'{"amount":1}')
        assert (known.request.principal, known.request.path, known.request.priority) == ("ada", "root.1", 3)
        assert await store.find(ids.new_id()) is None

    async def test_a_request_under_way_is_found(self, store: Journal) -> None:
        unit = command()
        under_way = submitted(store, unit)
        known = await store.find(unit.origin.event_id)
        assert known is not None
        assert known.request.raw == unit.origin.raw
        await under_way

    async def test_a_request_is_open_until_its_outcome(self, store: Journal) -> None:
        origin = request()
        opened = await written(store, Unit(origin=origin, request=True))
        known = await store.find(origin.event_id)
        assert known is not None
        assert (known.outcome, known.position) == (None, opened.position)
        assert [one.request.id for one in await listed(store.open_requests())] == [origin.id]
        chunk = Entry(stream="completion/1", name="completion:chunk", data=b'{"t":"a"}', kind="chunk")
        await written(store, Unit(origin=origin, entries=[chunk, chunk]))
        fact = Entry(stream="counter/a", name=COUNTER, data=b'{"amount":2}')
        failed = Outcome(False, b'{"code":"x"}', {"duration_us": 7})
        await written(store, Unit(origin=origin, entries=[fact], outcome=failed))
        assert await listed(store.open_requests()) == []
        closed = await store.find(origin.event_id)
        assert closed is not None
        assert closed.outcome == failed
        events = await listed(store.read_all([ALL_KINDS]))
        assert [event.kind for event in events] == ["request", "chunk", "chunk", "fact", "outcome"]
        assert events[-1].data == {"ok": False, "error": {"code": "x"}}
        assert events[-1].metadata["duration_us"] == 7
        assert len({event.event_id for event in events}) == 5
        for event in events:
            assert await store.get(event.event_id) == event
        run = await listed(
            store.read_all([Filter(kinds=("request", "fact", "outcome"), correlation_id=origin.correlation_id)])
        )
        assert [event.kind for event in run] == ["request", "fact", "outcome"]
        assert [event.version for event in await listed(store.read_stream("completion/1"))] == [1, 2]

    async def test_a_request_is_closed_once(self, store: Journal) -> None:
        unit = command()
        await written(store, unit)
        with pytest.raises(EventIdConflictError):
            await written(store, Unit(origin=unit.origin, outcome=Outcome(True, b"{}")))
        with pytest.raises(EventIdConflictError):
            await written(store, unit)

    async def test_emits_and_ancestors_are_opened_by_the_commit(self, store: Journal) -> None:
        parent, emitted = request("flow:run"), request("mail:send", b"{}")
        unit = command()
        unit.origin.caused_by(parent)
        emitted.caused_by(unit.origin)
        unit.ancestors, unit.emits = [parent], [emitted]
        await written(store, unit)
        events = await listed(store.read_all([ALL_KINDS]))
        assert [event.name for event in events] == ["flow:run", "counter:add", COUNTER, "mail:send", "counter:add"]
        assert {event.correlation_id for event in events} == {ids.text(parent.event_id)}
        assert [one.request.name for one in await listed(store.open_requests())] == ["flow:run", "mail:send"]
        for event in events:
            assert await store.get(event.event_id) == event
        caused = await listed(
            store.read_all([Filter(kinds=("request",), causation_id=UUID(bytes=unit.origin.event_id))])
        )
        assert [event.name for event in caused] == ["mail:send"]

    @pytest.mark.parametrize("raw", [ids.new_id(), uuid4().bytes, b"\xff" * 6 + b"\x4f" + b"\xff" * 9])
    @pytest.mark.parametrize("size", [1, 30, 31, 32, 100])
    async def test_every_event_of_a_large_unit_has_its_own_id(self, store: Journal, raw: bytes, size: int) -> None:
        entries = [Entry(stream="counter/a", name=COUNTER, data=b'{"amount":1}') for _ in range(size)]
        origin = request(id=raw)
        await written(store, Unit(origin=origin, request=True, entries=entries, outcome=Outcome(True, b"{}")))
        events = await listed(store.read_all([ALL_KINDS]))
        assert len({event.event_id for event in events}) == size + 2
        for event in events:
            assert await store.get(event.event_id) == event

    async def test_units_end_in_the_order_in_which_they_were_written(self, store: Journal) -> None:
        order: list[int] = []
        units = [submitted(store, command(amount=n)) for n in range(50)]
        for n, unit in enumerate(units):
            unit.add_done_callback(lambda _, n=n: order.append(n))  # type: ignore[misc]  # n is bound
        await asyncio.gather(*units)
        await asyncio.sleep(0)
        assert order == list(range(50))

    async def test_a_done_that_raises_hurts_nobody_else(self, store: Journal) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, facts: complaints.append(facts["exception"]))

        def fail(committed: Committed | None, error: KSIError | None) -> None:
            raise RuntimeError("my own fault")

        store.write(command(), fail)
        assert (await written(store, command())).versions == (2,)
        assert [str(one) for one in complaints] == ["my own fault"]


class ViewContract:
    """Read models."""

    async def test_a_view_shows_acknowledged_facts(self, store: Journal) -> None:
        store.register(CounterView)
        reader = store.view(CounterView)
        under_way = submitted(store, command(amount=3))
        assert await reader.get("a") is None
        await under_way
        assert await reader.get("a") == Counter("a", 3)
        await asyncio.gather(*(submitted(store, command(amount=1)) for _ in range(5)))
        assert await reader.get("a") == Counter("a", 8)

    async def test_a_view_that_is_registered_late_is_folded_to_the_head(self, store: Journal) -> None:
        await written(store, command(amount=3))
        under_way = submitted(store, command(amount=4))
        store.register(CounterView)
        assert await store.view(CounterView).get("a") == Counter("a", 3)
        await under_way
        assert await store.view(CounterView).get("a") == Counter("a", 7)

    async def test_an_apply_that_raises_fails_its_unit_alone(self, store: Journal) -> None:
        store.register(CounterView)
        before, poison, after = await asyncio.gather(
            store.append("counter/a", [added(1)]),
            store.append("counter/a", [added(5), added("poison")], expected_version=1),
            store.append("counter/a", [added(2)], expected_version=1),
            return_exceptions=True,
        )
        assert isinstance(poison, InternalError)
        assert not isinstance(before, BaseException)
        assert not isinstance(after, BaseException)
        assert after.versions == (2,)
        assert await store.view(CounterView).get("a") == Counter("a", 3)
        assert len(await listed(store.read_all())) == 2

    async def test_of_several_views_all_or_none_see_a_fact(self, store: Journal) -> None:
        class Times(CounterView):
            name = "times"

            def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
                name = event.stream.partition("/")[2]
                known = writer.get(name)
                writer.put(Counter(name, known.total + 1 if known else 1))

        store.register(Times)
        store.register(CounterView)
        with pytest.raises(InternalError):
            await store.append("counter/a", [added(1), added("poison")])
        await store.append("counter/a", [added(2)])
        assert await store.view(Times).get("a") == Counter("a", 1)

    async def test_records_are_scanned_in_the_order_of_key_and_index(self, store: Journal) -> None:
        store.register(CounterView)
        reader = store.view(CounterView)
        for name, amount in (("b", 2), ("a", 5), ("d", 1), ("c", 2)):
            await store.append(f"counter/{name}", [added(amount)])
        assert [record.id for record in (await reader.scan()).records] == ["a", "b", "c", "d"]
        assert [record.id for record in (await reader.scan("by_total")).records] == ["d", "b", "c", "a"]
        assert [record.id for record in (await reader.scan("by_total", 2, backwards=True)).records] == ["c", "b"]
        await store.append("counter/b", [added(8)])
        await store.append("counter/c", [added(None)])
        assert [record.id for record in (await reader.scan("by_total")).records] == ["d", "a", "b"]
        with pytest.raises(NotFoundError):
            await reader.scan("by_colour")

    async def test_a_scan_is_narrowed_by_how_the_next_field_begins(self, store: Journal) -> None:
        store.register(CounterView)
        names = ("a", "ab", "ab\0", "ab\0c", "abc", "a\U0010ffff", "b", "\u00e9")
        await store.append_all([StreamAppend(f"counter/{name}", [added(1)]) for name in names])
        reader = store.view(CounterView)
        for begins in ("", "a", "ab", "ab\0", "abcd", "\u00e9"):
            wanted = sorted(name for name in names if name.startswith(begins))
            assert [record.id for record in (await reader.scan(begins=begins)).records] == wanted
            assert [record.id for record in (await reader.scan("by_total", 1, begins=begins)).records] == wanted
            backwards = await reader.scan("by_total", 1, begins=begins, backwards=True)
            assert [record.id for record in backwards.records] == wanted[::-1]
        first = await reader.scan(begins="ab", limit=1)
        assert [record.id for record in (await reader.scan(begins="ab", after=first.next)).records] == [
            "ab\0", "ab\0c", "abc",
        ]  # fmt: skip

    @pytest.mark.parametrize("backwards", [False, True])
    async def test_pages_join_without_gap_or_double(self, store: Journal, backwards: bool) -> None:
        store.register(CounterView)
        await store.append_all([StreamAppend(f"counter/{n:02}", [added(n % 3)]) for n in range(20)])
        reader, seen, token = store.view(CounterView), [], None
        while True:
            page = await reader.scan("by_total", after=token, limit=3, backwards=backwards)
            seen += [record.id for record in page.records]
            token = page.next
            if token is None:
                break
        wanted = sorted((f"{n:02}" for n in range(20)), key=lambda name: (int(name) % 3, name), reverse=backwards)
        assert seen == wanted
        with pytest.raises(ValidationError):
            await reader.scan(after="no page")

    async def test_an_unregistered_view_is_not_found(self, store: Journal) -> None:
        with pytest.raises(NotFoundError):
            store.view(CounterView)
        store.register(CounterView)
        store.unregister(CounterView)
        await store.append("counter/a", [added("poison")])
        with pytest.raises(NotFoundError):
            store.view(CounterView)


class SubscriberContract:
    """Subscriptions and checkpoints."""

    async def test_a_subscription_catches_up_then_goes_on_live(self, store: Journal) -> None:
        await store.append_all([StreamAppend("counter/a", [added(n) for n in range(600)])])
        seen: list[int] = []
        async with store.subscribe([Filter(names=(COUNTER,))], after="start", buffer=100) as subscription:
            events = aiter(subscription)
            while len(seen) < 600:
                seen.append((await anext(events)).data["amount"])
            later = asyncio.ensure_future(anext(events))
            await store.append("note/1", [NewEvent(name="note:written", data={})])
            await store.append("counter/a", [added(600)])
            seen.append((await later).data["amount"])
            assert subscription.is_live
        assert seen == list(range(601))

    async def test_the_position_moves_where_nothing_matches(self, store: Journal) -> None:
        async with store.subscribe([Filter(names=("nobody:here",))], after="start") as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            appended = await store.append("counter/a", [added()])
            assert await subscription.wait_caught_up(5) == appended.positions[0]
            waiting.cancel()

    async def test_the_end_is_what_comes_after_now(self, store: Journal) -> None:
        await store.append("counter/a", [added(1)])
        async with store.subscribe(after="end") as subscription:
            await store.append("counter/a", [added(2)])
            assert (await anext(aiter(subscription))).data == {"amount": 2}

    async def test_what_is_acknowledged_is_where_the_subscriber_goes_on(self, store: Journal) -> None:
        await store.append("counter/a", [added(1), added(2)])
        async with store.subscribe(subscriber="mailer") as subscription:
            await subscription.ack(await anext(aiter(subscription)))
        async with store.subscribe(subscriber="mailer") as subscription:
            assert (await anext(aiter(subscription))).data == {"amount": 2}
        assert await store.checkpoint("mailer") == 1
        await store.reset_checkpoint("mailer", None)
        assert await store.checkpoint("mailer") is None

    async def test_a_checkpoint_commits_with_events_and_only_forwards(self, store: Journal) -> None:
        await store.append("note/1", [NewEvent(name="note:written", data={})] * 5)
        appends = [StreamAppend("counter/a", [added()])]
        with pytest.raises(ValidationError):
            await store.append_all(appends, checkpoint=("fold", Position(6)))
        await store.append_all(appends, checkpoint=("fold", Position(5)))
        assert await store.checkpoint("fold") == 5
        for position in (5, 4):
            with pytest.raises(CheckpointConflictError) as caught:
                await store.append_all(appends, checkpoint=("fold", Position(position)))
            assert caught.value.actual == 5
        assert await store.version("counter/a") == 1
        await store.reset_checkpoint("fold", Position(2))
        await store.append_all(appends, checkpoint=("fold", Position(3)))
        assert await store.checkpoint("fold") == 3

    async def test_a_slow_subscriber_may_lose_the_oldest(self, store: Journal) -> None:
        await store.append("counter/a", [added(0)])
        async with store.subscribe(after="start", buffer=3, overflow="drop") as subscription:
            events = aiter(subscription)
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await store.append("counter/a", [added(1)])
            await waiting
            await store.append("counter/a", [added(n) for n in range(2, 12)])
            assert [(await anext(events)).data["amount"] for _ in range(3)] == [9, 10, 11]
            assert subscription.dropped == 7

    async def test_a_slow_subscriber_may_be_told_where_to_go_on(self, store: Journal) -> None:
        async with store.subscribe(after="start", buffer=3, overflow="disconnect") as subscription:
            events = aiter(subscription)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            first = await store.append("counter/a", [added(0)])
            await waiting
            await store.append("counter/a", [added(n) for n in range(2, 12)])
            with pytest.raises(SubscriptionDroppedError) as caught:
                await anext(events)
            assert caught.value.resume_after == first.positions[0]

    async def test_closing_the_store_ends_a_subscription(self, store: Journal) -> None:
        async with store.subscribe() as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreClosedError):
                await waiting


class DeliveryContract:
    """Acknowledging, giving again, parking."""

    @pytest.fixture
    async def six(self, store: Journal) -> Journal:
        await store.append("counter/a", [added(n) for n in range(6)])
        return store

    async def test_a_checkpoint_stays_below_what_is_not_done(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            events = [event async for event in taken(subscription, 5)]
            for done in (events[1], events[3], events[2]):
                await subscription.ack(done)
            assert subscription.acknowledged == events[0].position - 1
            await subscription.ack(events[0])
            await subscription.ack(events[0])
            assert subscription.acknowledged == events[3].position
            assert subscription.position == events[4].position
        assert await six.checkpoint("mailer") == events[3].position
        async with six.subscribe(subscriber="mailer") as subscription:
            again = [event async for event in taken(subscription, 2)]
        assert [event.position for event in again] == [events[4].position, events[4].position + 1]

    async def test_an_acknowledgement_joins_the_next_commit(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            assert await six.checkpoint("mailer") is None
            await six.append("note/1", [NewEvent(name="note:written", data={})])
            assert await six.checkpoint("mailer") == event.position

    async def test_an_acknowledgement_that_finds_no_commit_makes_one(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            async with asyncio.timeout(5):
                while await six.checkpoint("mailer") != event.position:  # noqa: ASYNC110  # a checkpoint is no event
                    await asyncio.sleep(0)

    async def test_closing_the_log_stores_what_was_acknowledged(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            await subscription.ack(event)
            await six.close()
        assert await six.checkpoint("mailer") == event.position

    async def test_the_checkpoint_moves_where_nothing_matches(self, six: Journal) -> None:
        nothing = [Filter(names=("nobody:here",))]
        async with six.subscribe(nothing, subscriber="idle") as subscription:
            waiting = asyncio.ensure_future(anext(aiter(subscription)))
            head = await subscription.wait_caught_up(5)
            waiting.cancel()
        assert await six.checkpoint("idle") == head == await six.head()

    async def test_only_a_subscriber_with_a_name_acknowledges(self, six: Journal) -> None:
        async with six.subscribe(after="start") as subscription:
            (event,) = [event async for event in taken(subscription, 1)]
            with pytest.raises(ValueError, match="subscriber="):
                await subscription.ack(event)

    async def test_what_is_to_be_retried_comes_again_and_holds_nobody_up(self, six: Journal) -> None:
        async with asyncio.timeout(10), six.subscribe(subscriber="mailer") as subscription:
            events = aiter(subscription)
            first = await anext(events)
            await subscription.nack(first, "retry", "not yet")
            others = [await anext(events) for _ in range(5)]
            assert [event.data["amount"] for event in others] == [1, 2, 3, 4, 5]
            for event in others:
                await subscription.ack(event)
            assert subscription.acknowledged < first.position
            assert await anext(events) == first
            await subscription.ack(first)
            assert subscription.acknowledged == others[-1].position

    async def test_a_parked_event_is_a_fact_with_its_cause_and_is_not_given_again(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            second = [event async for event in taken(subscription, 2)][1]
            await subscription.nack(second, "park", "no such address")
        (fact,) = await listed(six.read_stream("$parked/mailer"))
        assert (fact.name, fact.causation_id) == ("subscription:parked", second.event_id)
        assert (fact.data["position"], fact.data["reason"]) == (second.position, "no such address")
        (parked,) = await six.parked("mailer")
        assert (parked.position, parked.event_id, parked.name) == (second.position, second.event_id, COUNTER)
        assert (parked.reason, parked.parked_at) == ("no such address", fact.recorded_at)
        async with six.subscribe(subscriber="mailer") as subscription:
            again = [event.data["amount"] async for event in taken(subscription, 3)]
        assert again == [0, 2, 3]
        assert await six.checkpoint("mailer") in (None, 0)

    async def test_a_parked_event_is_given_again_when_it_is_asked_for(self, six: Journal) -> None:
        async with asyncio.timeout(5), six.subscribe(subscriber="mailer") as subscription:
            events = aiter(subscription)
            seen = [await anext(events) for _ in range(6)]
            for event in seen:
                await subscription.nack(event, "park" if event in seen[1:3] else "skip", "no such address")
            waiting = asyncio.ensure_future(anext(events))
            assert await six.retry_parked("mailer", seen[1].position) == 1
            given = await waiting
            assert given == seen[1]
            await subscription.ack(given)
            assert [parked.position for parked in await six.parked("mailer")] == [seen[2].position]
        assert await six.retry_parked("mailer") == 1
        async with asyncio.timeout(5), six.subscribe(subscriber="mailer") as subscription:
            assert await anext(aiter(subscription)) == seen[2]
        (left,) = await six.parked("mailer")
        assert left.is_retried
        assert await six.drop_parked("mailer", reason="an old one") == 1
        assert await six.parked("mailer") == []
        with pytest.raises(NotFoundError):
            await six.retry_parked("mailer", seen[2].position)

    async def test_the_lag_is_what_is_not_done(self, six: Journal) -> None:
        async with six.subscribe(subscriber="mailer") as subscription:
            assert (await subscription.lag()).events == 6
            events = [event async for event in taken(subscription, 6)]
            assert subscription.is_live
            for event in events[:4]:
                await subscription.ack(event)
            behind = await subscription.lag()
            assert (behind.events, behind.seconds >= 0) == (2, True)
            for event in events[4:]:
                await subscription.ack(event)
            assert await subscription.lag() == Lag(0, 0.0)


class Sums(CounterView):
    """The same sums, folded behind."""

    name = "sums"
    inline = False


class Careless(Sums):
    """Adds one too much for each amount over 100: a fault that a rebuild finds once it is mended."""

    faulty: ClassVar[bool] = True

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        super().apply(writer, event)
        known = writer.get(event.stream.partition("/")[2])
        if self.faulty and known is not None and event.data["amount"] > 100:
            writer.put(Counter(known.id, known.total + 1))


class CarelessInline(Careless):
    name = "careless_inline"
    inline = True


class ProjectionContract:
    """Views that are folded behind, and rebuilds."""

    @pytest.fixture(autouse=True)
    def careless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Careless, "faulty", True)

    async def caught_up(self, store: Journal, name: str = "sums") -> Position:
        head = await store.head()
        assert head is not None
        await store.projections.wait_for(name, head, timeout=10)
        return head

    async def test_it_is_folded_behind_from_what_is_there_on(self, store: Journal) -> None:
        await store.append_all([StreamAppend("counter/a", [added(1)] * 300)])
        store.register(Sums)
        assert (await store.projections.status("sums"))[0].state in ("catching_up", "live")
        await self.caught_up(store)
        await store.append("counter/b", [added(7)])
        head = await self.caught_up(store)
        assert (await store.view(Sums).scan()).records == [Counter("a", 300), Counter("b", 7)]
        (status,) = await store.projections.status("sums")
        assert (status.state, status.position, status.lag, status.lag_seconds) == ("live", head, 0, 0.0)
        assert (status.problem, status.parked) == (None, 0)

    async def test_one_that_does_not_come_so_far_in_time_is_said(self, store: Journal) -> None:
        store.register(Sums)
        with pytest.raises(EventTimeoutError) as caught:
            await store.projections.wait_for("sums", Position(1), timeout=0.01)
        assert "sums" in caught.value.message

    async def test_who_waits_for_one_that_is_loaded_again_waits_for_the_new_one(self, store: Journal) -> None:
        store.register(Sums)
        waiting = asyncio.ensure_future(store.projections.wait_for("sums", Position(1), timeout=10))
        await asyncio.sleep(0)
        store.unregister(Sums)
        store.register(Sums)
        await store.append("counter/a", [added(1)])
        await waiting
        waiting = asyncio.ensure_future(store.projections.wait_for("sums", Position(2), timeout=10))
        await asyncio.sleep(0)
        store.unregister(Sums)
        with pytest.raises(NotFoundError):
            await waiting

    async def test_its_position_moves_where_nothing_matches(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("note/1", [NewEvent(name="note:written", data={})] * 3)
        head = await self.caught_up(store)
        assert (await store.projections.status("sums"))[0].position == head

    async def test_an_inline_view_is_where_the_head_is(self, store: Journal) -> None:
        store.register(CounterView)
        await written(store, command())
        await self.caught_up(store, "counters")
        (status,) = await store.projections.status()
        assert (status.name, status.state, status.position) == ("counters", "inline", await store.head())

    async def test_an_unknown_projection_is_not_found(self, store: Journal) -> None:
        for asked in (
            store.projections.status("nobody"),
            store.projections.rebuild("nobody"),
            store.projections.wait_for("nobody", Position(1), 1),
        ):
            with pytest.raises(NotFoundError):
                await asked

    async def test_an_event_that_it_can_not_take_is_parked_and_it_goes_on(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        assert await store.view(Sums).get("a") == Counter("a", 3)
        (parked,) = await store.parked(store.projections.subscriber("sums"))
        assert (parked.position, parked.reason) == (2, "RuntimeError: this amount can not be added")
        (status,) = await store.projections.status("sums")
        assert (status.state, status.problem, status.parked) == ("live", parked.reason, 1)

    async def test_a_parked_event_is_tried_again(self, store: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added("poison"), added(2)])
        await self.caught_up(store)
        subscriber = store.projections.subscriber("sums")
        monkeypatch.setattr(Sums, "apply", forgiving)
        twice = await asyncio.gather(*(store.retry_parked(subscriber, Position(2)) for _ in range(2)))
        assert twice == [1, 1]
        async with asyncio.timeout(5):
            while len(await store.parked(subscriber)) > 1:  # noqa: ASYNC110  # its end is no event for this test
                await asyncio.sleep(0)
        assert await store.view(Sums).get("a") == Counter("a", 1003)
        assert await store.drop_parked(subscriber) == 1
        assert (await store.projections.status("sums"))[0].parked == 0

    async def test_what_was_given_up_is_not_parked_again(self, store: Journal) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        subscriber = store.projections.subscriber("sums")
        assert await store.drop_parked(subscriber) == 1
        await store.projections.rebuild("sums")
        assert await store.parked(subscriber) == []
        assert await store.view(Sums).get("a") == Counter("a", 3)

    @pytest.mark.parametrize("view", [Careless, CarelessInline])
    async def test_a_rebuild_says_what_differs_and_takes_the_place(
        self, store: Journal, view: type[Careless], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.register(view)
        names = [f"{n:03}" for n in range(300)]
        amounts = [101 if n % 100 == 0 else 5 for n in range(300)]
        for name, amount in zip(names, amounts, strict=True):
            await store.append(f"counter/{name}", [added(amount)])
        await self.caught_up(store, view.name)
        monkeypatch.setattr(Careless, "faulty", False)
        tried = await store.projections.rebuild(view.name, swap=False)
        assert (tried.records, tried.added, tried.removed, tried.changed) == (300, 0, 0, 3)
        first = tried.examples[0]
        assert (first.key, first.before, first.after) == (("000",), Counter("000", 102), Counter("000", 101))
        assert await store.view(view).get("000") == Counter("000", 102)
        reader = store.view(view)
        rebuilt = await store.projections.rebuild(view.name)
        assert (rebuilt.changed, rebuilt.swapped, tried.swapped) == (3, True, False)
        assert await reader.get("000") == await store.view(view).get("000") == Counter("000", 101)
        await store.append("counter/000", [added(1)])
        await self.caught_up(store, view.name)
        page = await store.view(view).scan("by_total", backwards=True, limit=3)
        assert [(record.id, record.total) for record in page.records] == [("000", 102), ("200", 101), ("100", 101)]
        again = await store.projections.rebuild(view.name)
        assert (again.records, again.changed, again.examples) == (300, 0, [])

    @pytest.mark.parametrize("view", [Sums, CounterView])
    async def test_facts_that_come_during_a_rebuild_are_in_both(self, store: Journal, view: type[CounterView]) -> None:
        store.register(view)
        await store.append_all([StreamAppend(f"counter/{n % 50}", [added(1)] * 20) for n in range(50)])

        async def go_on() -> None:
            for n in range(200):
                await store.append(f"counter/{n % 50}", [added(1)])

        rebuilt, _ = await asyncio.gather(store.projections.rebuild(view.name), go_on())
        assert (rebuilt.added, rebuilt.removed, rebuilt.changed) == (0, 0, 0)
        await self.caught_up(store, view.name)
        records = (await store.view(view).scan()).records
        assert {record.total for record in records} == {24}

    async def test_a_rebuild_of_one_that_is_being_rebuilt_is_a_conflict(self, store: Journal) -> None:
        store.register(CounterView)
        await store.append("counter/a", [added(1)] * 500)
        ends = await asyncio.gather(
            store.projections.rebuild("counters"), store.projections.rebuild("counters"), return_exceptions=True
        )
        assert [type(end).__name__ for end in ends] == ["Rebuilt", "ConflictError"]

    async def test_an_inline_view_that_can_not_be_rebuilt_stays(self, store: Journal) -> None:
        await store.append("counter/a", [added(1)])
        store.register(CounterView)
        await store.append("counter/a", [added(2)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CounterView, "apply", failing)
            with pytest.raises(InternalError) as caught:
                await store.projections.rebuild("counters")
        assert "@1" in caught.value.message
        await store.append("counter/a", [added(3)])
        assert await store.view(CounterView).get("a") == Counter("a", 6)

    async def test_a_rebuild_puts_a_parked_event_in_its_place(
        self, store: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.register(Sums)
        await store.append("counter/a", [added(1), added("poison"), added(2)])
        await self.caught_up(store)
        monkeypatch.setattr(Sums, "apply", forgiving)
        rebuilt = await store.projections.rebuild("sums")
        assert (rebuilt.changed, rebuilt.examples[0].after) == (1, Counter("a", 1003))
        assert await store.parked(store.projections.subscriber("sums")) == []
        monkeypatch.setattr(Sums, "apply", CounterView.apply)
        await store.projections.rebuild("sums")
        assert [each.position for each in await store.parked(store.projections.subscriber("sums"))] == [2]
        assert await store.view(Sums).get("a") == Counter("a", 3)


def forgiving(view: Sums, writer: ViewWriter, event: RecordedEvent) -> None:
    """Takes poison for a thousand."""
    known = writer.get(event.stream.partition("/")[2])
    amount = 1000 if event.data["amount"] == "poison" else event.data["amount"]
    writer.put(Counter(event.stream.partition("/")[2], amount + (known.total if known else 0)))


def failing(view: CounterView, writer: ViewWriter, event: RecordedEvent) -> None:
    raise RuntimeError("not today")


async def taken(subscription: Subscription, count: int) -> AsyncIterator[RecordedEvent]:
    """The next ``count`` events; they must be there."""
    async with asyncio.timeout(5):
        events = aiter(subscription)
        for _ in range(count):
            yield await anext(events)


class EventLogContract(
    AppendContract,
    IdempotenceContract,
    ConditionContract,
    ReadContract,
    JournalContract,
    ViewContract,
    SubscriberContract,
    DeliveryContract,
    ProjectionContract,
):
    """All of it."""
