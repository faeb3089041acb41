"""Scenarios and properties, as authors of plugins write them."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from ksi.core.errors import NotFoundError, ValidationError
from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from ksi.testing.properties import EventPropertyTest
from ksi.testing.scenario import Scenario, TestResult


@fact("door:was_opened")
class DoorWasOpened(msgspec.Struct, frozen=True):
    name: str


class DoorPlugin(AsyncPlugin):
    name = "door"

    @event("door:open")
    async def open(self, door: str, context: EventContext) -> dict[str, str]:
        if door == "walled up":
            raise NotFoundError("door", door)
        context.append("door/1", DoorWasOpened(door))
        return {"opened": door}

    @event("door:fall")
    async def fall(self, door: str) -> dict[str, str]:
        return {"door"[len(door)]: door}  # an IndexError for long names


@pytest.mark.virtual
async def test_a_scenario_tells_answer_error_and_facts() -> None:
    async with EventTestHarness(DoorPlugin) as ksi:
        opened = await (
            Scenario(ksi)
            .given("door:open", door="back")
            .when("door:open", door="front")
            .then(lambda result: result.answer == {"opened": "front"})
            .then(lambda result: [each.data["name"] for each in result.facts] == ["front"])
            .run()
        )
        refused = await Scenario(ksi).when("door:open", door="walled up").run()
    assert opened.passed, opened.failures
    assert isinstance(refused.error, NotFoundError)
    assert refused.facts == []


@pytest.mark.virtual
async def test_what_does_not_hold_is_a_failure_of_the_result() -> None:
    def nobody_came(result: TestResult) -> None:
        raise AssertionError("somebody came")

    async with EventTestHarness(DoorPlugin) as ksi:
        scenario = Scenario(ksi).when("door:open", door="front")
        result = await scenario.then(nobody_came).then(lambda result: result.error is not None).run()
    assert not result.passed
    assert [said[:6] for said in result.failures] == ["somebo", "not so"]


class TestOpening(EventPropertyTest):
    plugins = (DoorPlugin,)
    event = "door:open"
    payloads = st.fixed_dictionaries({"door": st.text(max_size=5) | st.integers() | st.just("walled up")})

    def check(self, data: Mapping[str, Any], result: TestResult) -> None:
        if isinstance(data["door"], int):
            assert isinstance(result.error, ValidationError)


def test_a_handler_that_fails_for_some_payload_is_found() -> None:
    class Falling(EventPropertyTest):
        plugins = (DoorPlugin,)
        event = "door:fall"
        payloads = st.fixed_dictionaries({"door": st.text("ab")})

    with pytest.raises(AssertionError, match="IndexError"):
        Falling().test_any_payload_is_answered_and_the_log_stays_whole()
