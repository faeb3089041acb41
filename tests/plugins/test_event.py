"""The form of events that many follow is made once, and nothing of a person's is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ksi.core import ids
from ksi.core.events import Position, RecordedEvent, fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.event import RECENT_BYTES_MAX, RECENT_MAX, Event, Recent
from ksi.plugins.state import State
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import turns


@fact("tagged:noted")
class Noted(msgspec.Struct, frozen=True):
    """Something was noted."""

    tags: tuple[str, ...]


def recorded(position: int, *, raw: bytes = b"{}", subject: str | None = None) -> RecordedEvent:
    return RecordedEvent(
        position=Position(position),
        stream="a/1",
        version=position,
        name="a:b",
        raw=raw,
        id=ids.new_id(),
        recorded_us=1,
        subject=subject,
    )


def test_who_follows_the_log_is_shown_what_was_made_for_the_first() -> None:
    recent, event = Recent(), recorded(1)
    assert recent.shown(event) is recent.shown(event)


def test_of_a_persons_data_and_of_large_events_nothing_is_kept() -> None:
    recent = Recent()
    for made in (recorded(1, subject="ada"), recorded(2, raw=b'"%b"' % (b"x" * RECENT_BYTES_MAX))):
        assert recent.shown(made) is not recent.shown(made)
    assert recent._made == {}


def test_what_is_kept_is_bounded() -> None:
    recent = Recent()
    for position in range(3 * RECENT_MAX):
        recent.shown(recorded(position))
    assert len(recent._made) <= RECENT_MAX


async def test_an_event_is_encoded_once_however_many_follow() -> None:
    subscribers, events = 20, 30
    async with EventTestHarness(Event, State) as ksi:
        plugin = ksi.kernel.plugins._loaded["event"].plugin
        assert isinstance(plugin, Event)
        following = [aiter(ksi.stream("event:subscribe", {"pattern": "state:"})) for _ in range(subscribers)]
        waiting = [asyncio.ensure_future(_next(each, events)) for each in following]
        await turns()
        for number in range(events):
            await ksi.request("state:set", {"key": "k", "value": number})
        seen = await asyncio.gather(*waiting)
        assert [event["data"]["value"] for event in seen[0]] == list(range(events))
        assert all(each == seen[0] for each in seen)
        assert plugin._recent.encodings == events


class Tagged(AsyncPlugin):
    """Appends facts with tags."""

    name = "tagged"

    @event("tagged:note")
    async def note(self, tags: tuple[str, ...], context: EventContext) -> None:
        """Note something under tags."""
        context.append("notes/1", Noted(tags), tags=frozenset(tags))


async def test_one_may_follow_what_has_certain_tags() -> None:
    async with EventTestHarness(Event, Tagged) as ksi:
        await ksi.request("tagged:note", {"tags": ["room:1", "urgent"]})
        wanted = {"after": "start", "tags": ["room:1", "urgent"]}
        following = asyncio.ensure_future(_next(aiter(ksi.stream("event:subscribe", wanted)), 2))
        await turns()
        for tags in (["room:1"], ["urgent"], ["urgent", "room:1", "late"]):
            await ksi.request("tagged:note", {"tags": tags})
        seen = [event["data"]["tags"] for event in await following]
    assert seen == [["room:1", "urgent"], ["urgent", "room:1", "late"]]


async def _next(following: AsyncIterator[Any], count: int) -> list[Any]:
    return [await anext(following) for _ in range(count)]
