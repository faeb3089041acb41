"""Parked requests: on disk, without key and slot, run once by somebody's word, also after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    EventTimeoutError,
    KSIConnectionError,
    NotFoundError,
    PermissionDeniedError,
    ShuttingDownError,
)
from ksi.core.events import NewEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.door import Session
from ksi.kernel.middleware import Middleware, Parked
from ksi.kernel.plugin import AsyncPlugin
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import new_id, plugin, story, turns

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
runs: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    runs.clear()


@event("ask:do", key=lambda _: "k", timeout=5.0)
async def do(self: Any, context: EventContext) -> str:
    runs.append("do")
    context.append("ask/1", NewEvent(name="ask:done", data={}))
    return "done"


@event("p:outer", timeout=5.0)
async def outer(self: Any, context: EventContext) -> str:
    return f"outer {await context.request('ask:do')}"


@event("p:emitting")
async def emitting(self: Any, context: EventContext) -> None:
    context.emit("ask:do")


@event("p:keyed", key=lambda _: "k")
async def keyed(self: Any) -> str:
    return "keyed"


@query("ask:query")
async def look(self: Any) -> str:
    return "seen"


@stream("ask:count")
async def count(self: Any) -> AsyncIterator[int | End[str]]:
    yield 1
    yield End("counted")


def asking(envelope: EventEnvelope, session: Session) -> Parked:
    return Parked("somebody must say yes")


def asked_plugin() -> type[AsyncPlugin]:
    piece = Middleware(name="ask", pattern="ask:*", bind=lambda spec: asking)
    return plugin(do, outer, emitting, keyed, look, count, middleware=lambda self: (piece,))


async def parked_ids(ksi: EventTestHarness) -> list[bytes]:
    return [ids.parse(fact.data["event_id"]) for fact in await ksi.facts("request:parked")]


async def test_a_parked_request_is_on_disk_holds_no_key_and_is_answered_when_it_has_run() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        asked = asyncio.ensure_future(ksi.request("ask:do"))
        await turns()
        assert await story(ksi) == ["request ask:do", "fact request:parked"]
        (fact,) = await ksi.facts("request:parked")
        assert (fact.stream, fact.data["principal"], fact.data["reason"]) == (
            "$parked",
            "tester",
            "somebody must say yes",
        )
        assert await ksi.request("p:keyed") == "keyed"
        await asyncio.sleep(100)
        assert runs == []
        (event_id,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(event_id)
        assert await asked == "done"
        with pytest.raises(NotFoundError):
            await ksi.kernel.router.resume_parked(event_id)
        assert runs == ["do"]


@pytest.mark.parametrize("while_parked", [False, True])
async def test_the_deadlines_of_all_who_wait_for_it_stand_still(while_parked: bool) -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        first = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id, timeout=3.0))
        await asyncio.sleep(1 if while_parked else 0)
        second = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id, timeout=2.0))
        await asyncio.sleep(100)
        assert not first.done()
        assert not second.done()
        (parked,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(parked)
        assert (await first, await second) == ("done", "done")


async def test_a_stream_that_is_parked_is_read_by_those_who_joined_when_it_runs() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        streams = [ksi.stream("ask:count", event_id=event_id) for _ in range(2)]
        await asyncio.sleep(100)
        (parked,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(parked)
        assert [[chunk async for chunk in stream] for stream in streams] == [[1], [1]]
        assert [stream.answer for stream in streams] == ["counted", "counted"]


async def test_two_words_at_once_run_it_once() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        asked = asyncio.ensure_future(ksi.request("ask:do"))
        await turns()
        (event_id,) = await parked_ids(ksi)
        resume = ksi.kernel.router.resume_parked
        ends = await asyncio.gather(resume(event_id), resume(event_id), return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["NoneType", "NotFoundError"]
        await asked
        assert runs == ["do"]


@pytest.mark.parametrize("ends", ["crash", "restart"])
async def test_it_stays_parked_over_a_restart_and_a_retry_waits_for_the_same(ends: str) -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        lost = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id))
        await turns()
        await getattr(ksi, ends)()
        await asyncio.wait([lost])
        assert isinstance(lost.exception(), KSIConnectionError if ends == "crash" else ShuttingDownError)
        assert (ksi.recovered.rerun, ksi.recovered.closed, ksi.recovered.parked) == (0, 0, 1)
        again = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id))
        await turns()
        assert runs == []
        await ksi.kernel.router.resume_parked(ids.parse(event_id))
        assert await again == "done"
        assert runs == ["do"]


async def test_after_a_restart_it_runs_for_nobody_and_a_crash_then_does_not_park_it_again() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        lost = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id, timeout=10))
        await turns()
        await ksi.crash()
        await asyncio.wait([lost])
        assert lost.exception() is not None
        await asyncio.sleep(100)
        await ksi.kernel.router.resume_parked(ids.parse(event_id))
        await ksi.crash()
        await turns()
        assert await ksi.request("ask:do", event_id=event_id) == "done"
        assert len(await ksi.facts("ask:done")) == 1


@pytest.mark.parametrize("is_restarted", [True, False])
async def test_a_no_is_its_outcome(is_restarted: bool) -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        asked = asyncio.ensure_future(ksi.request("ask:do", event_id=event_id))
        await turns()
        if is_restarted:
            await ksi.crash()
            await asyncio.wait([asked])
            assert asked.exception() is not None
        no = PermissionDeniedError("ask:do", principal="tester", rule="somebody said no")
        await ksi.kernel.router.cancel_parked(ids.parse(event_id), no)
        await turns()
        if not is_restarted:
            with pytest.raises(PermissionDeniedError):
                await asked
        with pytest.raises(PermissionDeniedError, match="somebody said no"):
            await ksi.request("ask:do", event_id=event_id)
        with pytest.raises(NotFoundError):
            await ksi.kernel.router.cancel_parked(ids.parse(event_id), no)
        assert runs == []


async def test_the_limit_of_one_who_awaits_a_parked_one_stands_still() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        asked = asyncio.ensure_future(ksi.request("p:outer", timeout=20))
        await asyncio.sleep(100)
        (event_id,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(event_id)
        assert await asked == "outer done"


async def test_a_cancel_of_the_one_who_awaits_it_ends_it() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        asked = asyncio.ensure_future(ksi.request("p:outer"))
        await asyncio.sleep(10)
        asked.cancel()
        await turns()
        (event_id,) = await parked_ids(ksi)
        with pytest.raises(NotFoundError):
            await ksi.kernel.router.resume_parked(event_id)
        assert await story(ksi) == [
            "request p:outer",
            "request ask:do",
            "fact request:parked",
            "outcome ask:do",
            "outcome p:outer",
        ]


@pytest.mark.parametrize("ends", ["crash", "restart"])
async def test_after_a_restart_the_one_who_awaits_it_waits_again(ends: str) -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        event_id = new_id()
        lost = asyncio.ensure_future(ksi.request("p:outer", event_id=event_id))
        await turns()
        await getattr(ksi, ends)()
        await asyncio.wait([lost])
        assert lost.exception() is not None
        asked = asyncio.ensure_future(ksi.request("p:outer", event_id=event_id))
        await asyncio.sleep(100)
        (parked,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(parked)
        assert await asked == "outer done"
        assert runs == ["do"]


async def test_emits_accepted_requests_and_streams_can_be_parked() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        await ksi.request("p:emitting")
        receipts: list[Any] = []
        envelope = EventEnvelope(name="ask:do", principal="tester")
        ksi.kernel.router.accept(
            envelope, Session(principal="tester", source="t"), lambda *end: receipts.append(end), 1
        )
        opened = ksi.stream("ask:count")
        await turns()
        assert receipts[0][1] is not None
        assert runs == []
        for event_id in await parked_ids(ksi):
            await ksi.kernel.router.resume_parked(event_id)
        assert [chunk async for chunk in opened] == [1]
        await turns()
        assert opened.answer == "counted"
        assert runs == ["do", "do"]


async def test_a_parked_query_waits_in_memory_only() -> None:
    async with EventTestHarness(asked_plugin()) as ksi:
        asked = asyncio.ensure_future(ksi.request("ask:query"))
        await turns()
        assert await story(ksi) == ["fact request:parked"]
        (event_id,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(event_id)
        assert await asked == "seen"


async def test_its_own_limit_begins_when_it_runs() -> None:
    @event("ask:slow", timeout=5.0)
    async def slow(self: Any) -> None:
        await asyncio.sleep(100)

    piece = Middleware(name="ask", pattern="ask:*", bind=lambda spec: asking)
    async with EventTestHarness(plugin(slow, middleware=lambda self: (piece,))) as ksi:
        asked = asyncio.ensure_future(ksi.request("ask:slow"))
        await asyncio.sleep(100)
        (event_id,) = await parked_ids(ksi)
        await ksi.kernel.router.resume_parked(event_id)
        with pytest.raises(EventTimeoutError):
            await asked
