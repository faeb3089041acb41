"""Runs and their trees of causes, from what a real kernel recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ksi.core.errors import NotFoundError, OverloadedError
from ksi.core.events import Filter, fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, stream
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.correlation import Correlation
from tests.plugins.running import OWNER, Daemon, Reader, running


@fact("story:told")
class Told(msgspec.Struct, frozen=True):
    """A fact."""

    text: str


class Story(AsyncPlugin):
    """Requests that cause others."""

    name = "story"

    @event("story:tell")
    async def tell(self, context: EventContext) -> str:
        context.append("story/1", Told("once"))
        context.emit("story:note", text="later")
        await context.request("story:note", text="now")
        return "told"

    @event("story:note")
    async def note(self, text: str, context: EventContext) -> None:
        context.append("story/notes", Told(text))

    @event("story:ask", durability="before")
    async def ask(self, context: EventContext) -> dict[str, Any]:
        async def call() -> dict[str, Any]:
            return {"text": "yes", "usage": {"input_tokens": 3, "output_tokens": 4}}

        return dict(await context.effect("model:call", {"prompt": "?"}, call))

    @event("story:refuse")
    async def refuse(self) -> None:
        raise OverloadedError("the teller", limit=1)

    @stream("story:stream")
    async def stream(self, parts: int, context: EventContext) -> AsyncIterator[str | End[dict[str, Any]]]:
        context.append(f"story/{context.event_id}", Told("began"))
        try:
            for part in range(parts):
                yield str(part)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            yield End({"usage": {"input_tokens": 1, "output_tokens": parts}})
            return
        yield End({"usage": {"input_tokens": 1, "output_tokens": parts}})


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with running(Correlation, Story) as daemon:
        yield daemon


def outline(nodes: list[Any]) -> list[Any]:
    """Names and statuses, each with what is below it."""
    return [(node["name"], node["status"], outline(node["children"])) for node in nodes]


async def ended(reader: Reader) -> None:
    await asyncio.wait([reader.ended])


async def notes_taken(daemon: Daemon, count: int) -> None:
    """Until so many notes have their end."""
    ends = (Filter(names=("story:note",), kinds=("outcome",)),)
    async with daemon.log.subscribe(ends, after="start") as events:
        async for _ in events:
            count -= 1
            if count == 0:
                return


async def test_a_tree_shows_what_caused_what(daemon: Daemon) -> None:
    await daemon.ask("story:tell")
    await notes_taken(daemon, 2)
    answer = await daemon.ask("correlation:tree")
    note: Any = ("story:note", "ok", [("story:told", None, [])])
    ((name, status, below),) = outline(answer["tree"])
    assert (name, status, answer["complete"]) == ("story:tell", "ok", True)
    assert sorted(below, key=str) == sorted([("story:told", None, []), note, note], key=str)


async def test_an_effect_has_its_place_its_end_and_its_tokens(daemon: Daemon) -> None:
    await daemon.ask("story:ask")
    (root,) = (await daemon.ask("correlation:tree", run="last"))["tree"]
    (effect,) = root["children"]
    assert (effect["kind"], effect["name"], effect["status"], effect["tokens"]) == ("effect", "model:call", "ok", 7)
    assert root["tokens"] == 7
    assert (await daemon.ask("correlation:runs"))["runs"][0]["tokens"] == 7, "what came up from below counts once"


async def test_chunks_are_counted_and_not_listed(daemon: Daemon) -> None:
    await ended(daemon.follow("story:stream", parts=5))
    (root,) = (await daemon.ask("correlation:tree"))["tree"]
    assert (root["chunks"], outline(root["children"])) == (5, [("story:told", None, [])])


async def test_a_cancelled_stream_keeps_its_usage(daemon: Daemon) -> None:
    reader = daemon.follow("story:stream", parts=10_000)
    await reader.take(1)
    await reader.end_of()
    (run,) = (await daemon.ask("correlation:runs"))["runs"]
    assert (run["status"], run["tokens"]) == ("cancelled", 10_001)


async def test_runs_are_listed_newest_first_page_by_page(daemon: Daemon) -> None:
    await daemon.ask("story:note", text="a")
    with pytest.raises(OverloadedError):
        await daemon.ask("story:refuse", principal="uid:2000")
    await daemon.ask("story:tell")
    first = await daemon.ask("correlation:runs", limit=2)
    second = await daemon.ask("correlation:runs", limit=2, after=first["next"])
    runs = first["runs"] + second["runs"]
    assert [(run["name"], run["status"], run["principal"]) for run in runs] == [
        ("story:tell", "ok", OWNER),
        ("story:refuse", "error", "uid:2000"),
        ("story:note", "ok", OWNER),
    ]
    assert (runs[2]["events"], runs[2]["tokens"], second["next"]) == (3, 0, None)
    assert runs[2]["duration_ms"] >= 0


async def test_a_run_that_goes_on_is_listed_once_where_it_is_now(daemon: Daemon) -> None:
    for text in "ab":
        await daemon.ask("story:note", text=text, correlation="session-1")
        await daemon.ask("story:note", text=text)
    listed: list[Any] = []
    after = None
    while True:
        page = await daemon.ask("correlation:runs", limit=1, **({} if after is None else {"after": after}))
        listed += page["runs"]
        after = page["next"]
        if after is None:
            break
    assert [run["run"] for run in listed].count("session-1") == 1
    assert len((await daemon.ask("correlation:tree", run="session-1"))["tree"]) == 2


async def test_runs_are_chosen_by_how_they_ended(daemon: Daemon) -> None:
    async def names(**wanted: Any) -> list[str]:
        return [run["name"] for run in (await daemon.ask("correlation:runs", **wanted))["runs"]]

    with pytest.raises(OverloadedError):
        await daemon.ask("story:refuse")
    for _ in range(2):
        await daemon.ask("story:note", text="a", correlation="session-1")
    with pytest.raises(OverloadedError):
        await daemon.ask("story:refuse", correlation="session-1")
    await daemon.ask("story:note", text="b", correlation="session-1")
    with pytest.raises(OverloadedError):
        await daemon.ask("story:refuse", correlation="session-1")
    await daemon.ask("story:note", text="c")
    assert await names(status="error") == ["story:note", "story:refuse"]
    assert await names(status="ok") == ["story:note"]
    assert await names(status="interrupted") == []
    assert await names() == ["story:note", "story:note", "story:refuse"]
    page = await daemon.ask("correlation:runs", status="error", limit=1)
    assert (await daemon.ask("correlation:runs", status="error", after=page["next"]))["runs"][0][
        "name"
    ] == "story:refuse"


async def test_an_open_run_has_no_end(daemon: Daemon) -> None:
    reader = daemon.follow("story:stream", parts=10_000, credit=1)
    await reader.take(1)
    (run,) = (await daemon.ask("correlation:runs"))["runs"]
    assert (run["status"], run["duration_ms"]) == ("open", None)
    await reader.end_of()


async def test_a_trace_has_every_event_in_order(daemon: Daemon) -> None:
    await daemon.ask("story:note", text="a")
    await daemon.ask("story:note", text="b")
    run = (await daemon.ask("correlation:runs"))["runs"][1]["run"]
    trace = await daemon.ask("correlation:trace", run=run[:-1])
    assert [(event["position"], event["kind"]) for event in trace["events"]] == [
        (1, "request"), (2, "fact"), (3, "outcome"),
    ]  # fmt: skip
    assert trace["run"] == run


async def test_a_chain_leads_from_the_first_cause_to_the_event(daemon: Daemon) -> None:
    await daemon.ask("story:tell")
    await notes_taken(daemon, 2)
    (note,) = [e async for e in daemon.log.read_stream("story/notes") if e.data["text"] == "later"]
    chain = (await daemon.ask("correlation:chain", event_id=f"@{note.position}"))["chain"]
    assert [event["name"] for event in chain] == ["story:tell", "story:note", "story:told"]


async def test_a_run_that_does_not_exist_is_not_found(daemon: Daemon) -> None:
    with pytest.raises(NotFoundError) as caught:
        await daemon.ask("correlation:tree")
    assert (caught.value.what, caught.value.name) == ("run", "last")
    with pytest.raises(NotFoundError):
        await daemon.ask("correlation:trace", run="01000000-0000-7000-8000-000000000000")
