"""Facts of older versions are read as the newest, by everybody; what can not be read is found before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
import pytest

from ksi.core.blobs import Blobs
from ksi.core.errors import DuplicateEventError, InternalError
from ksi.core.events import Filter, NewEvent, RecordedEvent, fact
from ksi.core.threads import InlineThreads
from ksi.core.views import NamedVersion, Upcaster, View, ViewWriter
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.care import Care
from ksi.plugins.entity import Entity
from ksi.plugins.log import Log
from ksi.store.blobs import BlobStore
from ksi.store.memory import InMemoryEventStore
from ksi.store.upcasting import Upcasters
from tests.plugins.running import running

NAME = "guest:arrived"


@fact(NAME, schema_version=3)
class GuestArrived(msgspec.Struct, frozen=True):
    first: str
    last: str
    age: int | None


class Guest(msgspec.Struct, frozen=True):
    first: str
    last: str


class GuestsView(View[Guest]):
    name = "guests"
    query = (Filter(names=(NAME,)),)
    record = Guest
    key = ("first",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        arrived = event.into(GuestArrived)
        writer.put(Guest(arrived.first, arrived.last))


def two_names(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data["name"].partition(" ")
    return {"first": first, "last": last}


def with_age(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "age": None}


class Guests(AsyncPlugin):
    name = "guests"
    views = (GuestsView,)
    upcasters: ClassVar[Mapping[NamedVersion, Upcaster]] = {(NAME, 1): two_names, (NAME, 2): with_age}


def old(name: Any = "Ada Lovelace") -> NewEvent:
    return NewEvent(name=NAME, data={"name": name})


async def newest_of(log: InMemoryEventStore) -> RecordedEvent:
    return [event async for event in log.read_stream("guest/all")][-1]


NEWEST = {"first": "Ada", "last": "Lovelace", "age": None}


async def test_each_way_of_reading_gives_the_newest_version() -> None:
    async with running(Guests, Log, Entity) as daemon:
        await daemon.log.append("guest/all", [old()])
        (shown,) = (await daemon.ask("log:read", pattern="guest:"))["events"]
        assert shown["data"] == NEWEST
        assert (await daemon.ask("log:get", id="@1"))["event"]["data"] == NEWEST
        assert (await daemon.ask("entity:show", entity="guest/all"))["state"]["latest"] == NEWEST
        (event,) = [each async for each in daemon.log.read_stream("guest/all")]
        assert (event.schema_version, event.into(GuestArrived)) == (3, GuestArrived("Ada", "Lovelace", None))
        assert await daemon.log.get(event.event_id) == event
        assert await daemon.log.at(event.position) == event
        async with daemon.log.subscribe(after="start") as events:
            assert (await anext(aiter(events))).data == NEWEST


async def test_a_view_gets_the_newest_with_the_commit_and_when_it_is_built_again() -> None:
    async with running(Guests) as daemon:
        await daemon.log.append("guest/all", [old()])  # as a generation that drains still writes it
        assert await daemon.log.view(GuestsView).get("Ada") == Guest("Ada", "Lovelace")
        await daemon.log.projections.rebuild("guests")
        assert await daemon.log.view(GuestsView).get("Ada") == Guest("Ada", "Lovelace")


async def test_the_same_append_again_is_still_the_same() -> None:
    async with InMemoryEventStore() as log:
        log.upcasters.register(Guests.upcasters, owner="guests")
        event = NewEvent(name=NAME, data={"name": "Ada Lovelace"}, event_id=uuid4())
        await log.append("guest/all", [event])
        assert (await log.append("guest/all", [event])).deduplicated


async def test_without_the_plugin_it_is_read_as_it_was_written() -> None:
    async with InMemoryEventStore() as log:
        await log.append("guest/all", [old()])
        log.upcasters.register(Guests.upcasters, owner="guests")
        assert (await newest_of(log)).data == NEWEST
        log.upcasters.withdraw("guests")
        assert (await newest_of(log)).data == {"name": "Ada Lovelace"}


def test_two_plugins_can_not_say_it_for_one_version() -> None:
    book = Upcasters()
    book.register(Guests.upcasters, owner="guests")
    book.register(Guests.upcasters, owner="guests")  # its next generation
    with pytest.raises(DuplicateEventError) as caught:
        book.register({(NAME, 2): with_age}, owner="others")
    assert caught.value.places == ["guests", "others"]


async def test_one_that_raises_is_an_error_that_names_the_event() -> None:
    async with running(Guests, Log) as daemon:
        with pytest.raises(InternalError, match=f"the upcaster of {NAME} from version 1, @1,"):
            await daemon.log.append("guest/all", [old(7)])
        assert await daemon.log.head() is None  # a command that writes such a fact fails alone
        await daemon.log.append("guest/all", [old()])


async def test_the_check_tries_them_on_all_that_is_stored(tmp_path: Path) -> None:
    async with running(Guests, Care, services={Blobs: BlobStore(tmp_path, InlineThreads())}) as daemon:
        await daemon.log.append("guest/all", [old(), old("Grace Hopper")])
        await daemon.log.append("guest/all", [NewEvent(name=NAME, data=NEWEST, schema_version=3)])
        assert await daemon.ask("store:check_upcasters") == {"events": 2, "problems": []}


def in_turn() -> Upcaster:
    ages = iter(range(1000))
    return lambda data: {**data, "age": next(ages)}


@pytest.mark.parametrize(
    ("upcasters", "says"),
    [
        ({(NAME, 1): two_names}, "upcasters lead to version 2, the fact is at version 3"),
        ({}, "upcasters lead to version 1, the fact is at version 3"),
        ({(NAME, 1): two_names, (NAME, 2): lambda data: data}, "does not fit GuestArrived"),
        ({(NAME, 1): lambda data: {"x": data["y"]}, (NAME, 2): with_age}, "KeyError: 'y'"),
        ({(NAME, 1): two_names, (NAME, 2): in_turn()}, "is not pure"),
    ],
)
async def test_what_would_go_wrong_is_said_with_its_position(upcasters: Any, says: str) -> None:
    async with InMemoryEventStore() as log:
        await log.append("guest/all", [old()])
        log.upcasters.register(upcasters, owner="guests")
        (problem,) = (await log.check_upcasters({NAME: (3, GuestArrived)})).problems
        assert says in problem
        assert "@1" in problem


async def test_what_is_on_a_branch_is_tried_too() -> None:
    async with InMemoryEventStore() as log:
        await log.append("guest/all", [old()])
        await log.fork(await log.head() or 0, "exp")  # type: ignore[arg-type]  # a position
        await log.append("guest/all", [old(7)], branch="exp")
        log.upcasters.register(Guests.upcasters, owner="guests")
        checked = await log.check_upcasters({NAME: (3, GuestArrived)})
        assert (checked.events, len(checked.problems)) == (2, 1)
