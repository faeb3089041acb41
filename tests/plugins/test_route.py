"""Routes: what they make of facts, that they miss and double nothing, and that no circle goes on for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
    UnknownEventError,
    UnsupportedError,
    ValidationError,
)
from ksi.core.events import Filter
from ksi.kernel.door import Session
from ksi.kernel.middleware import Middleware
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins import route
from ksi.plugins.branch import Branch
from ksi.plugins.route import HOPS_MAX, RoutePlugin
from ksi.plugins.state import State
from ksi.plugins.transform import ITEMS_MAX
from ksi.store.memory import InMemoryEventStore
from ksi.testing.harness import EventTestHarness

SET = "state:value_was_set"


def routed() -> EventTestHarness:
    return EventTestHarness(State, RoutePlugin)


async def add(ksi: EventTestHarness, name: str = "r", **rule: Any) -> Any:
    return await ksi.request("route:add", {"name": name, "pattern": SET, "target": "state:set", **rule})


async def set_value(ksi: EventTestHarness, key: str, value: Any) -> None:
    await ksi.request("state:set", {"key": key, "value": value})


async def value_of(ksi: EventTestHarness, key: str) -> Any:
    return (await ksi.request("state:get", {"key": key}))["value"]


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(20):
        while not await is_so():  # noqa: ASYNC110  # what it waits for is in the log, after some turns of the loop
            await asyncio.sleep(0)


async def has(ksi: EventTestHarness, key: str, value: Any) -> None:
    async def is_so() -> bool:
        return bool(await value_of(ksi, key) == value)

    await until(is_so)


async def count(ksi: EventTestHarness, pattern: str, number: int) -> None:
    async def is_so() -> bool:
        return len(await ksi.facts(pattern)) >= number

    await until(is_so)


async def test_a_fact_that_fits_is_mapped_to_a_request_of_another_event() -> None:
    async with routed() as ksi:
        mapping = {"key": "alarm", "value": {"text": "{data.key} is {data.value}", "exact": "{data.value}", "n": 1}}
        await add(ksi, when='data.key == "heat" and data.value > 90', mapping=mapping)
        await set_value(ksi, "cold", 95)
        await set_value(ksi, "heat", 80)
        await set_value(ksi, "heat", 95)
        await has(ksi, "alarm", {"text": "heat is 95", "exact": 95, "n": 1})
        (listed,) = (await ksi.request("route:list"))["routes"]
        (forwarded,) = await ksi.facts("route:fact_was_forwarded")
        alarm = (await ksi.facts(SET))[-1]
    assert listed["forwarded"] == 1
    assert alarm.metadata["principal"] == "tester", "it acts as who added it"
    assert forwarded.stream == "route/r"
    assert alarm.correlation_id == (await ksi.facts(SET))[2].correlation_id


async def test_a_list_is_split_into_a_request_for_each_item_enriched_by_itself() -> None:
    async with routed() as ksi:
        await set_value(ksi, "price-b", 7)
        await add(
            ksi,
            when='data.key == "batch"',
            each="data.value",
            enrich={"price": {"query": "state:get", "data": {"key": "price-{item.name}"}}},
            mapping={"key": "item-{index}", "value": {"name": "{item.name}", "price": "{enriched.price.value}"}},
        )
        await set_value(ksi, "batch", [{"name": "a"}, {"name": "b"}])
        await has(ksi, "item-1", {"name": "b", "price": 7})
        assert await value_of(ksi, "item-0") == {"name": "a", "price": None}


async def test_items_that_are_payloads_need_no_mapping() -> None:
    async with routed() as ksi:
        await add(ksi, when='data.key == "batch"', each="data.value")
        await set_value(ksi, "batch", [1])
        await set_value(ksi, "batch", [{"key": "one", "value": 1}, {"key": "two", "value": 2}])
        await has(ksi, "two", 2)
        assert await value_of(ksi, "one") == 1


async def test_a_request_is_enriched_by_the_answers_of_queries() -> None:
    async with routed() as ksi:
        await set_value(ksi, "owner", "ada")
        lookup = {"who": {"query": "state:get", "data": {"key": "{data.value}"}}}
        mapping = {"key": "told", "value": "{enriched.who.value}"}
        await add(ksi, when='data.key == "ask"', enrich=lookup, mapping=mapping)
        await set_value(ksi, "ask", "owner")
        await has(ksi, "told", "ada")


async def test_it_goes_on_after_a_crash_and_forwards_nothing_twice() -> None:
    async with InMemoryEventStore() as log:
        async with EventTestHarness(State, RoutePlugin, log=log) as ksi:
            await add(ksi, when='data.key == "in"', target="state:set", mapping={"key": "out-{data.value}", "value": 1})
            for number in range(3):
                await set_value(ksi, "in", number)
            await ksi.crash()
            await set_value(ksi, "in", 3)
            await has(ksi, "out-3", 1)
            (added,) = await ksi.facts("route:was_added")
        await log.reset_checkpoint(f"route/r@{added.position}", None)  # so it is shown all of them again
        async with EventTestHarness(State, RoutePlugin, log=log) as ksi:
            await set_value(ksi, "in", 4)
            await has(ksi, "out-4", 1)
            assert len([fact for fact in await ksi.facts(SET) if fact.data["key"].startswith("out")]) == 5


async def test_a_circle_is_cut_and_said() -> None:
    async with routed() as ksi:
        await add(ksi, mapping={"key": "again", "value": "{data.version}"})
        await set_value(ksi, "again", 0)
        await count(ksi, "route:circle_was_cut", 1)
        (cut,) = await ksi.facts("route:circle_was_cut")
        assert cut.data["hops"] > HOPS_MAX
        assert len(await ksi.facts(SET)) < HOPS_MAX


async def test_a_fact_that_can_not_be_mapped_is_an_error_in_the_log_and_the_next_follows() -> None:
    async with routed() as ksi:
        await add(ksi, when='data.key == "in"', each="data.value", mapping={"key": "out", "value": "{item}"})
        await set_value(ksi, "in", list(range(ITEMS_MAX + 1)))
        await set_value(ksi, "in", ["fine"])
        await has(ksi, "out", "fine")
        with pytest.raises(ValidationError):
            await ksi.request("route:forward", {"name": "r", "position": (await ksi.facts(SET))[0].position})


async def test_it_says_what_each_route_makes_of_a_fact_and_asks_nothing() -> None:
    async with routed() as ksi:
        await set_value(ksi, "heat", 95)
        (was_set,) = await ksi.facts(SET)
        await add(ksi, "fits", mapping={"key": "copy", "value": "{data.value}"})
        await add(ksi, "other", pattern="agent:")
        await add(ksi, "not", when="data.value < 90")
        told = await ksi.request("route:explain", {"event": f"@{was_set.position}"})
        whys = {each["route"]: each["why"] for each in told["routes"]}
        assert (whys["fits"], whys["other"]) == (None, f"{SET} does not fit agent:")
        assert "data.value < 90" in whys["not"]
        (fits,) = (each for each in told["routes"] if each["route"] == "fits")
        assert fits["payloads"] == [{"key": "copy", "value": 95}]
        assert await value_of(ksi, "copy") is None


async def test_a_route_with_a_time_to_live_is_removed_by_itself() -> None:
    async with routed() as ksi:
        await add(ksi, ttl=0.05)

        async def is_gone() -> bool:
            await asyncio.sleep(0.01)
            return not (await ksi.request("route:list"))["routes"]

        await until(is_gone)
        assert len(await ksi.facts("route:was_removed")) == 1


async def test_a_removed_route_forwards_nothing_and_its_name_is_free() -> None:
    async with routed() as ksi:
        await add(ksi, mapping={"key": "copy", "value": 1}, when='data.key == "in"')
        with pytest.raises(ConflictError):
            await add(ksi)
        await ksi.request("route:remove", {"name": "r"})
        await set_value(ksi, "in", 1)
        await add(ksi, mapping={"key": "other", "value": 2}, when='data.key == "in"')
        for _ in range(2):
            await set_value(ksi, "in", 2)
        await count(ksi, SET, 5)
        assert sorted(fact.data["key"] for fact in await ksi.facts(SET)) == ["in", "in", "in", "other", "other"]
        (listed,) = (await ksi.request("route:list"))["routes"]
        assert listed["forwarded"] == 2
        assert await value_of(ksi, "copy") is None
        with pytest.raises(NotFoundError):
            await ksi.request("route:remove", {"name": "nobody"})


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"target": "state:sat"}, UnknownEventError),
        ({"target": "state:get"}, UnsupportedError),
        ({"enrich": {"x": {"query": "state:set"}}}, UnsupportedError),
        ({"when": "data.value >"}, ValidationError),
        ({"each": "data..x"}, ValidationError),
        ({"mapping": {"key": "{data value}", "value": 1}}, ValidationError),
    ],
)
async def test_a_rule_that_can_not_work_is_refused(rule: dict[str, Any], kind: type[Exception]) -> None:
    async with routed() as ksi:
        with pytest.raises(kind):
            await add(ksi, **rule)
        assert not (await ksi.request("route:list"))["routes"]


async def test_routes_are_listed_in_pages() -> None:
    async with routed() as ksi:
        for name in ("a", "b", "c"):
            await add(ksi, name, when="data.version > 99")
        names: list[list[str]] = []
        after = None
        while True:
            page = await ksi.request("route:list", {"limit": 2} | ({} if after is None else {"after": after}))
            names.append([each["name"] for each in page["routes"]])
            if (after := page["next"]) is None:
                break
        assert names == [["a", "b"], ["c"]]


async def test_after_a_restart_it_goes_on_at_its_checkpoint_and_asks_for_nothing_again() -> None:
    async with routed() as ksi:
        await add(ksi, when='data.key == "in"', mapping={"key": "out-{data.value}", "value": 1})
        for number in range(5):
            await set_value(ksi, "in", number)
        await has(ksi, "out-4", 1)
        (added,) = await ksi.facts("route:was_added")
        last = [fact for fact in await ksi.facts(SET) if fact.data["key"] == "in"][-1].position

        async def is_at_the_last() -> bool:
            return (await ksi.log.checkpoint(f"route/r@{added.position}") or 0) >= last

        await until(is_at_the_last)
        await ksi.restart()
        await set_value(ksi, "in", 5)
        await has(ksi, "out-5", 1)
        assert ksi.kernel.router.table["route:forward"].calls == 1


async def test_routes_are_those_of_main() -> None:
    async with EventTestHarness(State, RoutePlugin, Branch) as ksi:
        await add(ksi, when='data.key == "in"', mapping={"key": "out", "value": "{data.value}"})
        await ksi.request("store:fork", {"name": "trial"})
        with pytest.raises(UnsupportedError):
            await ksi.request("route:add", {"name": "there", "pattern": SET, "target": "state:set"}, branch="trial")
        await ksi.request("state:set", {"key": "in", "value": "of the branch"}, branch="trial")
        await set_value(ksi, "in", "of main")
        await has(ksi, "out", "of main")
        assert len(await ksi.facts("route:fact_was_forwarded")) == 1


async def test_facts_of_routes_are_not_forwarded() -> None:
    async with routed() as ksi:
        await add(ksi, "own", pattern="route:", mapping={"key": "own", "value": 1})
        await add(ksi, mapping={"key": "copy", "value": 1}, when='data.key == "in"')
        await set_value(ksi, "in", 1)
        await count(ksi, "route:fact_was_forwarded", 1)
        (forwarded,) = await ksi.facts("route:fact_was_forwarded")
        told = await ksi.request("route:explain", {"event": f"@{forwarded.position}"})
        await set_value(ksi, "in", 2)
        await count(ksi, "route:fact_was_forwarded", 2)
        assert await value_of(ksi, "own") is None
        assert {each["route"]: each["why"] for each in told["routes"]}["own"] == "facts of routes are not forwarded"


async def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "ROUTES_MAX", 2)
    async with routed() as ksi:
        await add(ksi, "a")
        await add(ksi, "b")
        with pytest.raises(OverloadedError):
            await add(ksi, "c")


async def test_what_it_asks_is_caused_by_the_fact_in_its_trace_and_about_the_same_person() -> None:
    async with routed() as ksi:
        await add(ksi, mapping={"key": "out", "value": 1}, when='data.key == "in"')
        asked = EventEnvelope.create("state:set", {"key": "in", "value": 1}, principal="tester")
        asked.subject, asked.traceparent = "ada", f"00-{'a' * 32}-{'b' * 16}-01"
        ksi.kernel.router.dispatch(asked, Session(principal="tester", source="test"), lambda *_: None, None)
        await has(ksi, "out", 1)
        was_set, made = await ksi.facts(SET)
        (forward,) = [
            event async for event in ksi.log.read_all((Filter(names=("route:forward",), kinds=("request",)),))
        ]
    assert (forward.causation_id, forward.correlation_id) == (was_set.event_id, asked.correlation_id)
    assert was_set.causation_id is not None
    assert forward.metadata["traceparent"].startswith(f"00-{'a' * 32}-{was_set.causation_id.bytes[8:].hex()}")
    assert (made.subject, made.correlation_id) == ("ada", asked.correlation_id)


@pytest.mark.virtual
async def test_what_the_daemon_does_not_take_now_is_asked_again_in_the_name_of_who_added_the_route() -> None:
    asking: list[str] = []

    def refuse_once(envelope: EventEnvelope, session: Session) -> None:
        if envelope.name == "route:forward":
            asking.append(session.principal)
            if len(asking) == 1:
                raise OverloadedError("everything", limit=0)

    class Busy(AsyncPlugin):
        name = "busy"

        def middleware(self) -> Iterable[Middleware]:
            return (Middleware(name="busy", stage="before", bind=lambda spec: refuse_once),)

    async with EventTestHarness(State, RoutePlugin, Busy) as ksi:
        await add(ksi, mapping={"key": "out", "value": 1}, when='data.key == "in"')
        await set_value(ksi, "in", 1)
        await asyncio.sleep(route.RETRY_DELAY + 0.1)
        assert await value_of(ksi, "out") == 1
    assert asking == ["tester", "tester"]
