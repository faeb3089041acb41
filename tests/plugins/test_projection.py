"""Read models as a whole: how they stand, what they could not take, and building them anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

import msgspec
import pytest

from ksi.core.errors import EventTimeoutError, NotFoundError
from ksi.core.events import Filter, NewEvent, RecordedEvent
from ksi.core.views import View, ViewWriter
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.projection import Projection
from ksi.plugins.state import State
from tests.plugins.running import Daemon, running


class Word(msgspec.Struct, frozen=True):
    word: str
    times: int


class WordsView(View[Word]):
    """How often a word is the value of a key; it stumbles over numbers, until it is mended."""

    name = "words"
    query = (Filter(names=("state:value_was_set",)),)
    record = Word
    key = ("word",)
    indexes: ClassVar[Mapping[str, tuple[str, ...]]] = {"by_times": ("times",)}
    inline = False
    is_mended: ClassVar[bool] = False

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        word = str(event.data["value"]) if self.is_mended else event.data["value"].lower()
        known = writer.get(word)
        writer.put(Word(word, 1 if known is None else known.times + 1))


class Words(AsyncPlugin):
    name = "words"
    views = (WordsView,)


@pytest.fixture
async def daemon(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    monkeypatch.setattr(WordsView, "is_mended", False)
    async with running(State, Words, Projection) as daemon:
        yield daemon


async def say(daemon: Daemon, *values: object) -> int:
    """Set each; then the projection has come so far. The position."""
    for value in values:
        await daemon.ask("state:set", key="a", value=value)
    head = await daemon.log.head()
    assert head is not None
    await daemon.ask("projection:status", name="words", position=head)
    return head


async def test_read_models_are_listed_by_name_with_where_they_stand(daemon: Daemon) -> None:
    head = await say(daemon, "sea", "sea")
    inline, behind = (await daemon.ask("projection:list"))["projections"]
    assert (inline["name"], inline["state"], inline["position"]) == ("state", "inline", head)
    assert behind == {
        "name": "words", "version": 1, "state": "live", "position": head,
        "lag": 0, "lag_seconds": 0.0, "problem": None, "parked": 0,
    }  # fmt: skip


async def test_what_it_could_not_take_is_shown_with_its_cause_and_tried_again(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(daemon, "sea", 7, 8, "sky")
    (status,) = [one for one in (await daemon.ask("projection:list"))["projections"] if one["name"] == "words"]
    assert (status["state"], status["parked"]) == ("live", 2)
    assert status["problem"] == "AttributeError: 'int' object has no attribute 'lower'"
    first, second = (await daemon.ask("projection:parked", name="words"))["parked"]
    assert (first["name"], first["stream"], first["reason"]) == (
        "state:value_was_set", "state/default", status["problem"],
    )  # fmt: skip
    monkeypatch.setattr(WordsView, "is_mended", True)
    assert await daemon.ask("projection:retry", name="words", position=first["position"]) == {"events": 1}
    async with (
        asyncio.timeout(5),
        daemon.log.subscribe([Filter(names=("subscription:settled",))], after="start") as ends,
    ):
        assert (await anext(aiter(ends))).data["position"] == first["position"]
    assert await daemon.ask("projection:drop", name="words", position=f"@{second['position']}") == {"events": 1}
    assert await daemon.ask("projection:parked", name="words") == {"parked": []}
    assert await daemon.log.view(WordsView).get("7") == Word("7", 1)


async def test_a_rebuild_shows_what_differs_and_is_a_fact(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    head = await say(daemon, "Sea", "sky")
    monkeypatch.setattr(WordsView, "is_mended", True)
    only_said = await daemon.ask("projection:rebuild", name="words", diff=True)
    assert (only_said["added"], only_said["removed"], only_said["swapped"]) == (1, 1, False)
    assert only_said["examples"] == [
        {"key": ["Sea"], "before": None, "after": {"word": "Sea", "times": 1}},
        {"key": ["sea"], "before": {"word": "sea", "times": 1}, "after": None},
    ]
    assert await daemon.log.view(WordsView).get("Sea") is None
    rebuilt = await daemon.ask("projection:rebuild", name="words")
    assert (rebuilt["position"] >= head, rebuilt["records"], rebuilt["swapped"]) == (True, 2, True)
    assert await daemon.log.view(WordsView).get("Sea") == Word("Sea", 1)
    (fact,) = [event async for event in daemon.log.read_stream("projection/words") if event.kind == "fact"]
    assert (fact.name, fact.data["added"], fact.data["removed"]) == ("projection:rebuilt", 1, 1)
    assert (await daemon.ask("projection:rebuild", name="state"))["changed"] == 0


async def test_a_wait_for_what_is_not_written_yet_ends_in_time(daemon: Daemon) -> None:
    with pytest.raises(EventTimeoutError):
        await daemon.ask("projection:status", name="words", position="@1000", timeout=0.01)


async def test_an_unknown_name_is_not_found(daemon: Daemon) -> None:
    for asked in ("status", "rebuild", "parked", "retry", "drop"):
        with pytest.raises(NotFoundError) as caught:
            await daemon.ask(f"projection:{asked}", name="wrods")
        assert "wrods" in caught.value.message


async def test_parked_events_of_any_subscriber_are_shown_and_dropped(daemon: Daemon) -> None:
    await daemon.log.append("mail/1", [NewEvent(name="mail:sent", data={})])
    async with daemon.log.subscribe(after="start", subscriber="mailer") as events:
        event = await anext(aiter(events))
        await events.nack(event, "park", "no such address")
    (parked,) = (await daemon.ask("projection:parked", name="mailer"))["parked"]
    assert (parked["reason"], parked["subscriber"]) == ("no such address", "mailer")
    assert await daemon.ask("projection:drop", name="mailer", reason="a test") == {"events": 1}
    assert await daemon.ask("projection:parked", name="mailer") == {"parked": []}
