"""What each log promises to who appends and reads."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.errors import (
    AppendConditionError,
    EventIdConflictError,
    NotFoundError,
    StoreClosedError,
    ValidationError,
    WrongExpectedVersionError,
)
from ksi.core.events import (
    NO_STREAM,
    ROOT,
    STREAM_EXISTS,
    AppendCondition,
    Filter,
    NewEvent,
    Position,
    StreamAppend,
)
from ksi.core.ports import Entry, Journal, Outcome, Unit
from ksi.testing.counters import COUNTER, added, command, listed, request, written


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

    @pytest.mark.parametrize(
        "slip",
        [
            {"tags": "abc"},
            {"tags": frozenset({1})},
            {"name": 5},
            {"name": ""},
            {"schema_version": "x"},
            {"correlation_id": 5},
            {"subject": 5},
            {"subject": ""},
            {"event_id": "x"},
            {"causation_id": "x"},
            {"occurred_at": "x"},
            {"metadata": "x"},
            {"data": "x"},
        ],
        ids=str,
    )
    async def test_what_is_not_of_its_type_is_refused_and_leaves_nothing(
        self, store: Journal, slip: dict[str, Any]
    ) -> None:
        given: Any = {"name": COUNTER, "data": {"amount": 1}} | slip
        with pytest.raises(ValidationError):
            await store.append("counter/a", [NewEvent(**given)])
        not_an_event: Any = {"name": COUNTER}
        for stream, event in (("counter/a", not_an_event), ("", added())):
            with pytest.raises(ValidationError):
                await store.append(stream, [event])
        assert (await store.append("counter/a", [added()])).versions == (1,)
        assert len(await listed(store.read_all())) == 1

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
