"""Entities now and as they were."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ksi.core.errors import BeyondHeadError, NotFoundError, ValidationError
from ksi.core.events import NewEvent, Position
from ksi.plugins.entity import Entity
from ksi.plugins.state import State
from ksi.store.debugger import FACTS_SHOWN_MAX
from tests.plugins.running import Daemon, running


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(Entity, State) as daemon:
        yield daemon


async def test_an_entity_is_what_its_plugin_says_of_its_facts(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    await daemon.ask("state:set", key="b", value={"x": [1]})
    await daemon.ask("state:delete", key="a")
    shown = await daemon.ask("entity:show", entity="state/default")
    assert shown == {"entity": "state/default", "at": 8, "version": 3, "state": {"b": {"x": [1]}}}


@pytest.mark.parametrize("at", [5, "@5", 7, "@7"])
async def test_an_entity_is_shown_as_it_was(daemon: Daemon, at: int | str) -> None:
    for value in range(3):
        await daemon.ask("state:set", key="a", value=value)
    shown = await daemon.ask("entity:show", entity="state/default", at=at)
    assert (shown["at"], shown["version"], shown["state"]) == (5, 2, {"a": 1})


async def test_behind_the_head_there_is_no_past(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    await daemon.log.fork(Position(3), "exp")
    await daemon.log.append("ship/1", [NewEvent(name="ship:moved", data={})], branch="exp")
    head = max(info.head or 0 for info in await daemon.log.branches())
    with pytest.raises(BeyondHeadError) as caught:
        await daemon.ask("entity:show", entity="state/default", at=f"@{head + 1}")
    assert (caught.value.position, caught.value.head) == (head + 1, head)
    assert (await daemon.ask("entity:show", entity="state/default", at=head))["state"] == {"a": 1}


async def test_an_entity_that_nobody_folds_is_its_last_facts(daemon: Daemon) -> None:
    facts = [NewEvent(name="ship:moved", data={"x": n, f"only {n}": True}) for n in range(2)]
    await daemon.log.append("ship/1", facts)
    shown = await daemon.ask("entity:show", entity="ship/1")
    assert shown["state"]["latest"] == {"x": 1, "only 0": True, "only 1": True}
    assert [line["data"]["x"] for line in shown["state"]["events"]] == [0, 1]


async def test_of_a_long_entity_the_last_facts_are_shown(daemon: Daemon) -> None:
    await daemon.log.append("ship/1", [NewEvent(name="ship:moved", data={"x": n}) for n in range(FACTS_SHOWN_MAX + 1)])
    shown = await daemon.ask("entity:show", entity="ship/1")
    assert (shown["version"], len(shown["state"]["events"])) == (FACTS_SHOWN_MAX + 1, FACTS_SHOWN_MAX)


async def test_an_entity_without_facts_is_not_found(daemon: Daemon) -> None:
    await daemon.ask("state:set", key="a", value=1)
    questions: list[dict[str, Any]] = [{"entity": "state/other"}, {"entity": "state/default", "at": 1}]
    for fields in questions:
        with pytest.raises(NotFoundError):
            await daemon.ask("entity:show", **fields)


async def test_a_place_that_is_none_is_refused(daemon: Daemon) -> None:
    with pytest.raises(ValidationError):
        await daemon.ask("entity:show", entity="state/default", at="now")
