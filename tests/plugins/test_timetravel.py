"""Questions about the past, asked of a real kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ksi.core.errors import NotFoundError, ValidationError
from ksi.core.events import Position, Query, RecordedEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.entity import Entity
from ksi.plugins.state import State
from ksi.plugins.timetravel import TimeTravel
from ksi.plugins.timetravel.plugin import END_OF_TIME_US
from ksi.store.debugger import Method, TimeTravelDebugger
from tests.plugins.running import Daemon, running


class Painter(AsyncPlugin):
    """A run that writes several values."""

    name = "painter"

    @event("painter:paint")
    async def paint(self, colours: list[str], context: EventContext) -> None:
        for colour in colours:
            await context.request("state:set", key="colour", value=colour)


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(Entity, State, TimeTravel, Painter) as daemon:
        yield daemon


async def test_blame_names_the_event_that_wrote_a_value_and_its_causes(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="colour", value="grey")
    await daemon.ask("painter:paint", colours=["red", "blue", "blue"])
    await daemon.ask("state:set", key="other", value=1)
    found = await daemon.ask("timetravel:blame", entity="state/default", path="colour")
    assert (found["before"], found["after"], found["event"]["data"]["value"]) == ("red", "blue", "blue")
    assert [event["name"] for event in found["chain"]] == ["painter:paint", "state:set", "state:value_was_set"]
    earlier = await daemon.ask(
        "timetravel:blame", entity="state/default", path="colour", at=found["event"]["position"] - 1
    )
    assert earlier["after"] == "red"


async def test_blame_of_what_was_taken_away_names_who_took_it(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="colour", value="grey")
    await daemon.ask("state:delete", key="colour")
    found = await daemon.ask("timetravel:blame", entity="state/default", path="colour")
    assert (found["event"]["name"], found["before"], "after" in found) == ("state:value_was_deleted", "grey", False)


async def test_blame_of_nothing_is_not_found(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    for entity, path, what in (("state/default", "b", "value"), ("state/none", "a", "entity")):
        with pytest.raises(NotFoundError) as caught:
            await daemon.ask("timetravel:blame", entity=entity, path=path)
        assert caught.value.what == what


@pytest.mark.parametrize("monotone", [False, True])
async def test_bisect_finds_the_event_that_made_it_true(daemon: Daemon, monotone: bool) -> None:
    await daemon.ask("state:set", key="colour", value="grey")
    await daemon.ask("painter:paint", colours=["a", "b", "c", "d", "red", "red"])
    found = await daemon.ask("timetravel:bisect", run="last", where="colour == 'red'", monotone=monotone)
    assert found["event"]["data"]["value"] == "red"
    assert found["differences"] == [{"path": "colour", "before": "d", "after": "red"}]
    assert found["asked"] == 5


async def test_a_scan_finds_the_first_of_several_flips(daemon: Daemon) -> None:
    await daemon.ask("painter:paint", colours=["red", "blue", "red"])
    found = await daemon.ask("timetravel:bisect", run="last", where="colour == 'red'")
    assert found["asked"] == 1


async def test_bisect_counts_only_the_events_of_its_run(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="colour", value="red")
    await daemon.ask("painter:paint", colours=["red", "red"])
    found = await daemon.ask("timetravel:bisect", run="last", where="colour == 'red'")
    assert found["event"] is None


async def test_an_expression_that_is_none_is_refused(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    with pytest.raises(ValidationError):
        await daemon.ask("timetravel:bisect", run="last", where="a ==")


async def test_a_diff_shows_what_is_not_the_same(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value={"x": [1, 2]})
    middle = await daemon.log.head()
    await daemon.ask("state:set", key="a", value={"x": [1, 3, 4]})
    await daemon.ask("state:set", key="b c", value=1)
    diff: Any = await daemon.ask("timetravel:diff", entity="state/default", before=middle)
    assert diff["differences"] == [
        {"path": "a.x[1]", "before": 2, "after": 3},
        {"path": "a.x[2]", "after": 4},
        {"path": '["b c"]', "after": 1},
    ]
    back = await daemon.ask("timetravel:diff", entity="state/default", before=f"@{await daemon.log.head()}", after=0)
    assert [each["path"] for each in back["differences"]] == ["a", '["b c"]']


async def test_all_entities_are_shown_at_one_cut(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    cut = await daemon.log.head()
    await daemon.ask("state:set", key="a", value=2, namespace="other")
    await daemon.ask("state:set", key="a", value=3)
    assert (await daemon.ask("timetravel:state", at=cut))["entities"] == {"state/default": {"a": 1}}
    now = await daemon.ask("timetravel:state", at=await daemon.log.head(), pattern="state/*")
    assert now["entities"] == {"state/default": {"a": 3}, "state/other": {"a": 2}}


class Total:
    """A fold over several entities."""

    name = "total"
    version = 1
    query: Query = ()

    def initial(self) -> int:
        return 0

    def apply(self, state: int, event: RecordedEvent) -> int:
        return state + int(event.data["value"])

    def dump(self, state: int) -> bytes:
        return str(state).encode()

    def load(self, raw: bytes) -> int:
        return int(raw)


async def test_a_change_of_any_fold_is_found_by_scan_and_by_bisection(daemon: Daemon) -> None:
    for value in (1, 2, 3, 4):
        await daemon.ask("state:set", key="a", value=value, namespace=f"n{value}")
    debugger = TimeTravelDebugger(daemon.log)
    methods: tuple[Method, ...] = ("scan", "bisect")
    for method in methods:
        change = await debugger.find_state_change(Total(), lambda total: total >= 6, method=method)
        assert change is not None
        assert (change.before, change.after, change.event.data["value"]) == (3, 6, 3)
    assert await debugger.find_state_change(Total(), lambda total: total >= 6, after=Position(12)) is None


async def test_a_fold_and_a_stream_are_seen_as_they_were_at_a_position_or_a_moment(daemon: Daemon) -> None:
    for value in (1, 2, 3):
        await daemon.ask("state:set", key="a", value=value)
    debugger = TimeTravelDebugger(daemon.log)
    second = [event async for event in daemon.log.read_all()][1]
    for at in (second.position, second.recorded_at):
        assert await debugger.state_at(Total(), at) == 3
        assert [event.data["value"] async for event in debugger.time_travel("state/default", at)] == [1, 2]
    assert await debugger.state_at(Total()) == 6
    assert [event async for event in debugger.time_travel("state/default", Position(0))] == []


async def test_a_moment_after_the_last_date_is_refused(daemon: Daemon) -> None:
    head = await daemon.ask("timetravel:position", when_us=END_OF_TIME_US - 1)
    assert head >= 0
    with pytest.raises(ValidationError):
        await daemon.ask("timetravel:position", when_us=END_OF_TIME_US)
