"""Streams: credit, commits, addresses, ends; what cancels them and what they outlive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    CancelledError,
    InvalidResponseError,
    KSIError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ReplayDivergenceError,
    StreamStalledError,
    WrongExpectedVersionError,
)
from ksi.core.events import NewEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, stream
from ksi.kernel.door import Session, StreamCall
from ksi.kernel.middleware import Middleware
from ksi.kernel.streaming import UNWRITTEN_MAX
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import new_id, plugin, recorded, story, turns

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
given = 0


class Reader:
    """A sink that gives only as much credit as it is told to."""

    def __init__(
        self, ksi: EventTestHarness, credit: int, name: str = "p:count", raw: bytes = b"{}", **fields: Any
    ) -> None:
        self.chunks: list[bytes] = []
        self.addresses: list[str | None] = []
        self.ends: list[tuple[bytes | None, KSIError | None]] = []
        self.ended = asyncio.Event()
        self.session = Session(principal="tester", source="test")
        self._router = ksi.kernel.router
        if name == "resume":
            self.call: StreamCall = self._router.resume(raw.decode(), self.session, self, credit)
        else:
            envelope = EventEnvelope(name=name, raw=raw, principal="tester", **fields)
            self.call = self._router.open_stream(envelope, self.session, self, credit)

    def chunk(self, at: str | None, raw: bytes) -> None:
        self.chunks.append(raw)
        self.addresses.append(at)

    def opened(self, at: str) -> None: ...
    def gap(self, info: Any) -> None: ...

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        self.ends.append((raw, error))
        self.ended.set()

    @property
    def code(self) -> str:
        (end,) = self.ends
        return end[1].code if end[1] else "ok"


@stream("p:count")
async def count(self: Any, to: int = 10) -> AsyncIterator[int | End[str]]:
    global given
    given = 0
    try:
        for number in range(to):
            given += 1
            yield number
    except asyncio.CancelledError:
        yield End(f"cut after {given}")
        return
    yield End("done")


@stream("p:detached", on_disconnect="detach")
async def detached(self: Any) -> AsyncIterator[int | End[str]]:
    for number in range(3):
        yield number
        await asyncio.sleep(1)
    yield End("done")


@stream("p:endless", record=False)
async def endless(self: Any) -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1


async def test_the_handler_is_asked_for_no_more_than_its_reader_wants() -> None:
    async with EventTestHarness(plugin(count)) as ksi:
        reader = Reader(ksi, 3)
        await turns()
        assert (reader.chunks, given) == ([b"0", b"1", b"2"], 3)
        reader.call.grant(2)
        await turns()
        assert given == 5
        reader.call.grant(100)
        await reader.ended.wait()
        assert reader.ends == [(b'"done"', None)]


async def test_chunks_of_a_turn_are_one_commit_and_on_disk_before_they_are_seen() -> None:
    async with EventTestHarness(plugin(count)) as ksi:
        reader = Reader(ksi, 100)
        await reader.ended.wait()
        chunks = [event for event in await recorded(ksi) if event.kind == "chunk"]
        assert [event.address for event in chunks] == reader.addresses
        assert len({event.recorded_at for event in chunks}) == 1
        assert await story(ksi) == ["request p:count", *["chunk p:count"] * 10, "outcome p:count"]


async def test_cancelled_while_it_waits_for_credit_it_still_says_what_it_has() -> None:
    async with EventTestHarness(plugin(count)) as ksi:
        event_id = new_id()
        reader = Reader(ksi, 3, id=ids.parse(event_id))
        await turns()
        reader.call.cancel()
        reader.call.cancel()
        await reader.ended.wait()
        ((_, error),) = reader.ends
        assert isinstance(error, CancelledError)
        assert error.partial == "cut after 3"
        with pytest.raises(CancelledError) as caught:
            await ksi.request("p:count", event_id=event_id)
        assert caught.value.partial == "cut after 3"


async def test_one_that_ends_without_a_word_when_it_is_cancelled_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @stream("p:mute")
    async def mute(self: Any) -> AsyncIterator[int]:
        try:
            yield 1
        except asyncio.CancelledError:
            return

    async with EventTestHarness(plugin(mute)) as ksi:
        reader = Reader(ksi, 1, "p:mute")
        await turns()
        reader.call.cancel()
        await reader.ended.wait()
        assert reader.code == "cancelled"
    assert not caplog.records


async def test_a_chunk_after_the_end_or_outside_its_schema_is_invalid() -> None:
    @stream("p:late")
    async def late(self: Any) -> AsyncIterator[int | End[str]]:
        yield End("done")
        yield 1

    @stream("p:wrong")
    async def wrong(self: Any) -> AsyncIterator[int]:
        yield "x"  # type: ignore[misc]  # that is the point

    async with EventTestHarness(plugin(late, wrong)) as ksi:
        for name in ("p:late", "p:wrong"):
            with pytest.raises(InvalidResponseError):
                await ksi.request(name)


async def test_without_an_end_the_end_value_is_null_and_a_stream_can_be_requested() -> None:
    @stream("p:plain")
    async def plain(self: Any) -> AsyncIterator[int]:
        yield 1

    async with EventTestHarness(plugin(plain, count)) as ksi:
        assert await ksi.request("p:plain") is None
        assert await ksi.request("p:count", {"to": 1000}) == "done"


async def test_a_generator_that_never_waits_is_held_back_by_the_disk_and_lets_others_run() -> None:
    global given
    given = 0
    async with EventTestHarness(plugin(count, endless)) as ksi:
        requested = asyncio.ensure_future(ksi.request("p:count", {"to": 100_000}))
        await turns(8)
        assert 0 < given <= UNWRITTEN_MAX
        requested.cancel()
        never = asyncio.ensure_future(ksi.request("p:endless"))
        await turns()
        never.cancel()
        await turns()
        assert not ksi.kernel.router.under_way


async def test_a_reader_that_stalls_gets_an_end_frame_and_the_stream_is_cancelled() -> None:
    async with EventTestHarness(plugin(count)) as ksi:
        reader = Reader(ksi, 3)
        await asyncio.sleep(59)
        assert reader.ends == []
        await asyncio.sleep(2)
        ((_, error),) = reader.ends
        assert isinstance(error, StreamStalledError)
        assert (await recorded(ksi))[-1].data["error"]["code"] == "cancelled"


async def test_a_stream_that_says_nothing_for_too_long_is_ended_but_not_for_its_readers_pace() -> None:
    @stream("p:silent", idle_timeout=5)
    async def silent(self: Any, pauses: tuple[float, ...]) -> AsyncIterator[int]:
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            yield number

    async with EventTestHarness(plugin(silent)) as ksi:
        loop = asyncio.get_running_loop()
        reader = Reader(ksi, 1, "p:silent", b'{"pauses":[4,4,4,30]}')
        await asyncio.sleep(30)
        assert (len(reader.chunks), reader.ends) == (1, []), "it is the reader who is slow"
        since = loop.time()
        reader.call.grant(8)
        await reader.ended.wait()
        assert (len(reader.chunks), reader.code) == (3, "timeout")
        assert loop.time() - since == pytest.approx(13, abs=0.1)


async def test_a_reader_that_is_gone_cancels_or_detaches_as_declared() -> None:
    async with EventTestHarness(plugin(count, detached)) as ksi:
        for name in ("p:count", "p:detached"):
            reader = Reader(ksi, 1, name)
            await turns()
            reader.call.disconnected()
            await asyncio.sleep(10)
            assert reader.ends == []
        outcomes = {event.name: event.data["ok"] for event in await recorded(ksi) if event.kind == "outcome"}
        assert outcomes == {"p:count": False, "p:detached": True}


async def test_a_stream_is_gone_on_with_after_any_address_also_after_a_restart() -> None:
    async with EventTestHarness(plugin(detached)) as ksi:
        first = Reader(ksi, 10, "p:detached")
        await turns()
        address = first.addresses[0]
        assert address is not None
        second = Reader(ksi, 10, "resume", address.encode())
        await second.ended.wait()
        assert (second.chunks, second.ends) == ([b"1", b"2"], [(b'"done"', None)])
        await ksi.restart()
        third = Reader(ksi, 1, "resume", address.replace("@1", "@0").encode())
        await turns()
        assert (third.chunks, third.ends) == ([b"0"], [])
        third.call.grant(2)
        await third.ended.wait()
        assert third.chunks == first.chunks == [b"0", b"1", b"2"]


async def test_the_end_needs_no_credit_and_a_cancelled_reader_stops_only_itself() -> None:
    async with EventTestHarness(plugin(detached)) as ksi:
        first = Reader(ksi, 10, "p:detached")
        await turns()
        address = first.addresses[0]
        assert address is not None
        exact, leaving = Reader(ksi, 2, "resume", address.encode()), Reader(ksi, 2, "resume", address.encode())
        leaving.call.cancel()
        await exact.ended.wait()
        await first.ended.wait()
        assert (exact.chunks, leaving.chunks, first.chunks) == ([b"1", b"2"], [], [b"0", b"1", b"2"])
        assert len(leaving.ends) == 1


async def test_a_stream_that_nobody_made_is_not_found() -> None:
    async with EventTestHarness(plugin(count)) as ksi:
        for address in (f"p/{new_id()}@0", "p/x@0"):
            reader = Reader(ksi, 1, "resume", address.encode())
            await reader.ended.wait()
            ((_, error),) = reader.ends
            assert isinstance(error, NotFoundError)
        reader = Reader(ksi, 1, "resume", b"nonsense")
        await reader.ended.wait()
        assert reader.code == "invalid_frame"


async def test_who_may_not_ask_may_not_read() -> None:
    def only_tester(envelope: EventEnvelope, session: Session) -> str:
        if session.principal != "tester":
            raise PermissionDeniedError(envelope.name, principal=session.principal, rule="only tester")
        return "tester"

    piece = Middleware(name="only", stage="permission", bind=lambda spec: only_tester)
    async with EventTestHarness(plugin(count, middleware=lambda self: (piece,))) as ksi:
        first = Reader(ksi, 100)
        await first.ended.wait()
        reader = Reader(ksi, 0, "p:none")
        address = first.addresses[0]
        assert address is not None
        ksi.kernel.router.resume(address, Session(principal="other", source="t"), reader, 10)
        await turns()
        assert reader.ends[-1][1] is not None
        assert reader.ends[-1][1].code == "permission_denied"
        assert reader.chunks == []


async def test_a_retry_reads_what_the_first_one_wrote_while_it_runs_and_after() -> None:
    async with EventTestHarness(plugin(detached, count)) as ksi:
        event_id = ids.new_id()
        readers = [Reader(ksi, 10, "p:detached", id=event_id) for _ in range(2)]
        for reader in readers:
            await reader.ended.wait()
        readers.append(Reader(ksi, 1, "p:detached", id=event_id))
        await turns()
        readers[2].call.grant(10)
        await readers[2].ended.wait()
        assert [reader.chunks for reader in readers] == [[b"0", b"1", b"2"]] * 3
        assert [reader.ends for reader in readers] == [[(b'"done"', None)]] * 3
        other = Reader(ksi, 1, "p:count", id=event_id)
        await other.ended.wait()
        assert other.code == "conflict"


async def test_a_crash_after_an_effect_keeps_what_was_seen_and_says_that_the_rest_is_unknown() -> None:
    @stream("p:acting")
    async def acting(self: Any, context: EventContext) -> AsyncIterator[int]:
        async def call() -> None: ...

        await context.effect("x:y", {}, call)
        yield 0
        await asyncio.sleep(100)

    async with EventTestHarness(plugin(acting)) as ksi:
        event_id = new_id()
        seen = Reader(ksi, 10, "p:acting", id=ids.parse(event_id))
        await turns()
        await ksi.crash()
        assert ksi.recovered.closed == 1
        with pytest.raises(OutcomeUnknownError):
            await ksi.request("p:acting", event_id=event_id)
        again = Reader(ksi, 10, "resume", f"p/{event_id}@0".encode())
        await again.ended.wait()
        assert again.chunks == seen.chunks == [b"0"]
        assert again.code == "outcome_unknown"


async def test_a_stream_that_runs_again_says_each_chunk_once() -> None:
    reached, opened = asyncio.Event(), asyncio.Event()

    @stream("p:again", on_crash="rerun")
    async def again(self: Any) -> AsyncIterator[int | End[str]]:
        for number in range(4):
            yield number
            if number == 1:
                reached.set()
                await opened.wait()
        yield End("done")

    async with EventTestHarness(plugin(again)) as ksi:
        event_id = new_id()
        reader = Reader(ksi, 10, "p:again", id=ids.parse(event_id))
        await reached.wait()
        await turns()
        assert reader.chunks == [b"0", b"1"]
        await ksi.crash()
        opened.set()
        assert await ksi.request("p:again", event_id=event_id) == "done"
        assert [event.raw for event in await recorded(ksi) if event.kind == "chunk"] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("chunks", "requested"),
    [
        ([0, 7, 2], {"kind": "chunk", "name": "p:again", "data": 7}),
        ([0], None),
    ],
)
async def test_a_stream_that_says_something_else_when_it_runs_again_ends_with_the_difference(
    chunks: list[int], requested: Any
) -> None:
    said, waiting = [0, 1], asyncio.Event()

    @stream("p:again", on_crash="rerun")
    async def again(self: Any) -> AsyncIterator[int | End[str]]:
        for number in said:
            yield number
        if said == [0, 1]:
            await waiting.wait()
        yield End("done")

    async with EventTestHarness(plugin(again)) as ksi:
        event_id = ids.new_id()
        reader = Reader(ksi, 10, "p:again", id=event_id)
        await turns()
        said[:] = chunks
        await ksi.crash()
        later = Reader(ksi, 10, "p:again", id=event_id)
        await later.ended.wait()
        assert later.chunks == reader.chunks == [b"0", b"1"]
        ((_, error),) = later.ends
        assert isinstance(error, ReplayDivergenceError)
        assert error.position == next(event.position for event in await recorded(ksi) if event.raw == b"1")
        assert (error.recorded, error.requested) == ({"kind": "chunk", "name": "p:again"}, requested)


async def test_facts_of_a_stream_go_with_its_chunks_and_a_conflict_of_them_is_its_outcome() -> None:
    @stream("p:facts")
    async def facts(self: Any, context: EventContext, expected: int) -> AsyncIterator[int | End[str]]:
        context.append("p/1", NewEvent(name="p:fact", data={}), expected_version=expected)
        yield 1
        await asyncio.sleep(1)
        yield 2
        yield End("done")

    async with EventTestHarness(plugin(facts)) as ksi:
        assert await ksi.request("p:facts", {"expected": 0}) == "done"
        event_id = new_id()
        for _ in range(2):
            with pytest.raises(WrongExpectedVersionError):
                await ksi.request("p:facts", {"expected": 0}, event_id=event_id)
        assert len(await ksi.facts("p:fact")) == 1
        await ksi.restart()
        assert (ksi.recovered.rerun, ksi.recovered.closed) == (0, 0)


async def test_a_handler_reads_a_stream_and_closing_it_cancels_it() -> None:
    @event("p:read")
    async def read(self: Any, context: EventContext, stops: bool) -> list[Any]:
        found: list[Any] = []
        items = context.stream("p:count", to=40)
        async for item in items:
            if stops and len(found) == 2:
                break
            found.append(item.answer if isinstance(item, End) else item)
        await items.aclose()
        return found

    async with EventTestHarness(plugin(count, read)) as ksi:
        assert await ksi.request("p:read", {"stops": False}) == [*range(40), "done"]
        assert await ksi.request("p:read", {"stops": True}) == [0, 1]
        await turns()
        assert not ksi.kernel.router.under_way


async def test_an_unrecorded_stream_leaves_nothing_and_two_with_one_id_are_two() -> None:
    async with EventTestHarness(plugin(endless)) as ksi:
        event_id = ids.new_id()
        readers = [Reader(ksi, 3, "p:endless", id=event_id) for _ in range(2)]
        await turns()
        for reader in readers:
            assert (reader.chunks, reader.addresses) == ([b"0", b"1", b"2"], [None, None, None])
            reader.call.cancel()
            await reader.ended.wait()
        assert await story(ksi) == []
        assert not ksi.kernel.router.under_way
