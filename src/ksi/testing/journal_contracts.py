"""What each log promises to the kernel: units of requests, and views."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from ksi.core import ids
from ksi.core.errors import (
    EventIdConflictError,
    InternalError,
    KSIError,
    NotFoundError,
    ValidationError,
)
from ksi.core.events import (
    Filter,
    RecordedEvent,
    StreamAppend,
)
from ksi.core.ports import Committed, Entry, Journal, Outcome, Unit
from ksi.core.views import ViewWriter
from ksi.testing.counters import (
    ALL_KINDS,
    COUNTER,
    Counter,
    CounterView,
    added,
    command,
    listed,
    request,
    submitted,
    written,
)


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

    @pytest.mark.parametrize(
        "raw",
        [ids.new_id(), uuid4().bytes, b"\xff" * 6 + b"\x4f" + b"\xff" * 9],
        ids=["a new id", "a random one", "the highest"],
    )
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
