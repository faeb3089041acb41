"""A log read through a pipe is the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import msgspec

from ksi.core import ids
from ksi.core.events import Filter, NewEvent, Position, RecordedEvent
from ksi.core.ports import Known
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.store import piped
from ksi.store.piped import Answer, AnyQuestion, LogServer, PipedLog
from ksi.testing.harness import EventTestHarness


class Writer(AsyncPlugin):
    name = "writer"

    @event("writer:write")
    async def write(self, text: str, context: EventContext) -> str:
        context.append("text/1", NewEvent(name="text:written", data={"text": text}))
        return text


def over_the_wire(log: EventTestHarness) -> PipedLog:
    """Questions and answers as bytes, as they go through a pipe; asked at once, for a log in memory does not wait."""
    server, decode = LogServer(log.log), msgspec.json.Decoder(AnyQuestion).decode

    def ask(question: AnyQuestion) -> Answer:
        answering = server.answer(decode(piped.encode(question)))
        try:
            answering.send(None)
        except StopIteration as end:
            return piped.decode_answer(piped.encode(end.value))
        raise AssertionError("a log in memory waited")

    return PipedLog(ask)


async def values(events: AsyncIterator[RecordedEvent]) -> list[object]:
    return [[getattr(event, name) for name in RecordedEvent.__struct_fields__] async for event in events]


async def test_it_reads_as_the_log_itself_over_many_pages() -> None:
    everything = (Filter(kinds=("fact", "request", "outcome")),)
    async with EventTestHarness(Writer) as ksi:
        for number in range(600):
            await ksi.request("writer:write", {"text": f"{number}"})
        log = over_the_wire(ksi)
        for how in ({}, {"backwards": True}, {"limit": 700}, {"after": Position(100), "until": Position(1700)}):
            asked = {"query": everything, **how}
            assert await values(log.read_all(**asked)) == await values(ksi.log.read_all(**asked))  # type: ignore[arg-type]  # keywords
        for more in ({}, {"backwards": True, "limit": 3}, {"from_version": 7, "to_version": 590}, {"backwards": True}):
            here = await values(log.read_stream("text/1", **more))
            assert here == await values(ksi.log.read_stream("text/1", **more))
        assert [i async for i in log.streams("text/*")] == [i async for i in ksi.log.streams("text/*")]
        assert await log.head() == await ksi.log.head()


async def test_single_events_requests_and_moments_are_found() -> None:
    async with EventTestHarness(Writer) as ksi:
        await ksi.request("writer:write", {"text": "a"})
        log = over_the_wire(ksi)
        request, written, _ = [e async for e in log.read_all((Filter(kinds=("fact", "request", "outcome")),))]
        known = await log.find(request.id)
        assert isinstance(known, Known)
        assert known == await ksi.log.find(request.id)
        assert isinstance(await log.get(written.event_id), RecordedEvent)
        assert await log.position_at(written.recorded_at) == 3
        assert await log.find(ids.new_id()) is None
        assert await log.get(UUID(int=5)) is None
