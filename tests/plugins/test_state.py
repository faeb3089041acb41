"""Shared state over the real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksi.core.errors import ValidationError, WrongExpectedVersionError
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.state import State
from tests.plugins.running import Daemon, running

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


class Counting(AsyncPlugin):
    """Increments by reading and setting, as a plugin of anybody's would."""

    name = "counting"

    @event("counting:add", key=lambda request: "counting")
    async def add(self, context: EventContext) -> None:
        current = await context.request("state:get", key="n")
        await context.request("state:set", key="n", value=(current["value"] or 0) + 1)


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(State, Counting) as daemon:
        yield daemon


async def test_a_value_is_given_back_with_its_version(daemon: Daemon) -> None:
    assert await daemon.ask("state:set", key="a", value={"x": 1}) == {"namespace": "default", "key": "a", "version": 1}
    await daemon.ask("state:set", key="a", value=[2])
    found = await daemon.ask("state:get", key="a")
    assert found == {"namespace": "default", "key": "a", "value": [2], "version": 2, "found": True}


async def test_a_text_of_digits_stays_a_text(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value="123")
    assert (await daemon.ask("state:get", key="a"))["value"] == "123"


@settings(max_examples=50, deadline=None)
@given(value=json_values)
async def test_any_json_is_kept_exactly(value: Any) -> None:
    async with running(State) as daemon:
        await daemon.ask("state:set", key="a", value=value)
        kept = (await daemon.ask("state:get", key="a"))["value"]
        assert (kept, type(kept)) == (value, type(value))


async def test_a_key_that_was_never_set_is_not_found_and_no_error(daemon: Daemon) -> None:
    found = await daemon.ask("state:get", key="a")
    assert found == {"namespace": "default", "key": "a", "value": None, "version": 0, "found": False}


async def test_null_is_a_value(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=None)
    assert (await daemon.ask("state:get", key="a"))["found"] is True


async def test_namespaces_do_not_see_each_other(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1, namespace="one")
    assert (await daemon.ask("state:get", key="a", namespace="two"))["found"] is False


async def test_a_deleted_key_goes_on_with_its_version(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    assert (await daemon.ask("state:delete", key="a"))["deleted"] is True
    assert (await daemon.ask("state:get", key="a"))["found"] is False
    assert (await daemon.ask("state:set", key="a", value=2, expected_version=2))["version"] == 3


async def test_deleting_nothing_records_no_fact(daemon: Daemon) -> None:
    assert (await daemon.ask("state:delete", key="a")) == {
        "namespace": "default", "key": "a", "version": 0, "deleted": False,
    }  # fmt: skip
    assert [event async for event in daemon.log.read_all()] == []


@pytest.mark.parametrize(("command", "fields"), [("state:set", {"value": 3}), ("state:delete", {})])
async def test_an_expected_version_that_has_passed_changes_nothing(
    daemon: Daemon, command: str, fields: dict[str, Any]
) -> None:
    await daemon.ask("state:set", key="a", value=1)
    await daemon.ask("state:set", key="a", value=2)
    with pytest.raises(WrongExpectedVersionError) as caught:
        await daemon.ask(command, key="a", expected_version=1, **fields)
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("state/default/a", 1, 2)
    assert (await daemon.ask("state:get", key="a"))["value"] == 2


async def test_expecting_version_0_sets_only_what_was_never_set(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1, expected_version=0)
    with pytest.raises(WrongExpectedVersionError):
        await daemon.ask("state:set", key="a", value=2, expected_version=0)


async def test_a_list_has_the_keys_with_a_prefix_in_order_page_by_page(daemon: Daemon) -> None:
    for key in ["user:2", "a", "user:1", "user:3", "z"]:
        await daemon.ask("state:set", key=key, value=key)
    await daemon.ask("state:delete", key="user:2")
    first = await daemon.ask("state:list", prefix="user:", limit=1)
    second = await daemon.ask("state:list", prefix="user:", limit=1, after=first["next"])
    assert [value["key"] for value in first["values"] + second["values"]] == ["user:1", "user:3"]
    assert [value["key"] for value in (await daemon.ask("state:list"))["values"]] == ["a", "user:1", "user:3", "z"]


async def test_increments_of_a_keyed_handler_are_all_counted(daemon: Daemon) -> None:
    await asyncio.gather(*[daemon.ask("counting:add") for _ in range(50)])
    assert (await daemon.ask("state:get", key="n"))["value"] == 50


@pytest.mark.parametrize(
    "fields",
    [{}, {"key": "a"}, {"key": 1, "value": 1}, {"key": "", "value": 1}, {"key": "a", "value": 1, "valeu": 2}],
    ids=["nothing", "no value", "a number as key", "an empty key", "a field that does not exist"],
)
async def test_a_wrong_request_is_refused_and_nothing_is_recorded(daemon: Daemon, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("state:set", **fields)
    assert await daemon.log.head() is None


async def test_values_are_facts_in_the_stream_of_their_namespace(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1, namespace="lab")
    (fact,) = [event async for event in daemon.log.read_stream("state/lab")]
    assert (fact.name, fact.data) == (
        "state:value_was_set",
        {"namespace": "lab", "key": "a", "value": 1, "version": 1},
    )
