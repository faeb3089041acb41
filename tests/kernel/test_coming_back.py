"""A reader that is cut off comes back to its stream, or does not; and whose word then ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import CancelledError
from ksi.kernel.declare import End, stream
from ksi.kernel.door import Session
from ksi.kernel.router import Limits
from ksi.testing.harness import EventTestHarness
from tests.kernel.running import plugin, recorded, turns
from tests.kernel.test_execution import Answers
from tests.kernel.test_streams import Reader

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
GRACE = 10.0
made = 0


@stream("p:say")
async def say(self: Any, to: int = 6, silent: bool = False) -> AsyncIterator[int | End[str]]:
    global made
    made = 0
    try:
        if silent:
            await asyncio.sleep(1_000)
        for number in range(to):
            made += 1
            yield number
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        yield End(f"cut after {made}")
        return
    yield End("done")


@stream("p:shown", record=False)
async def shown(self: Any) -> AsyncIterator[int]:
    global made
    while True:
        made += 1
        yield made


class Onlooker(Reader):
    """Somebody else, who may read it."""

    def __init__(self, ksi: EventTestHarness, credit: int, address: str) -> None:
        super().__init__(ksi, 0, "p:none")
        self.ends.clear()
        self.ended.clear()
        session = Session(principal="other", source="test")
        self.call = ksi.kernel.router.resume(address, session, self, credit)


async def cut_off(ksi: EventTestHarness, credit: int, raw: bytes = b"{}", **fields: Any) -> tuple[Reader, str]:
    """A reader whose connection was lost with its last chunk, and where it was."""
    reader = Reader(ksi, credit, "p:say", raw, **fields)
    await asyncio.sleep(1)
    reader.call.disconnected()
    return reader, reader.addresses[-1] or "" if reader.addresses else f"{reader.call.stream}@0"


async def outcome_of(ksi: EventTestHarness) -> Any:
    (outcome,) = [event.data for event in await recorded(ksi) if event.kind == "outcome"]
    return outcome


async def test_the_work_waits_where_its_reader_was_lost_and_goes_on_with_the_one_who_comes_back() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        lost, address = await cut_off(ksi, 2)
        await asyncio.sleep(GRACE - 1)
        assert made == 2
        back = Reader(ksi, 1, "resume", address.encode())
        await asyncio.sleep(GRACE * 2)
        assert (back.chunks, made) == ([b"2"], 3), "from now on it is its credit that counts"
        back.call.grant(10)
        await back.ended.wait()
        assert (lost.chunks, back.chunks) == ([b"0", b"1"], [b"2", b"3", b"4", b"5"])
        assert (lost.ends, back.ends) == ([], [(b'"done"', None)])


async def test_who_streams_it_again_under_the_same_id_is_one_who_comes_back() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        event_id = ids.new_id()
        await cut_off(ksi, 2, id=event_id)
        again = Reader(ksi, 3, "p:say", id=event_id)
        await asyncio.sleep(GRACE * 2)
        assert (len(again.chunks), made) == (3, 3)
        again.call.grant(9)
        await again.ended.wait()
        assert (again.code, len(again.chunks)) == ("ok", 6)


async def test_who_requests_it_under_the_same_id_wants_all_of_it() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        event_id, answers = ids.new_id(), Answers(ksi)
        await cut_off(ksi, 2, id=event_id)
        answers.ask("p:say", id=event_id)
        await asyncio.sleep(GRACE * 2)
        assert answers.codes == ["ok"]


async def test_nobody_comes_back() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        _, address = await cut_off(ksi, 2)
        await asyncio.sleep(GRACE - 0.5)
        assert ksi.kernel.router.under_way
        await asyncio.sleep(1)
        assert not ksi.kernel.router.under_way
        late = Reader(ksi, 10, "resume", address.encode())
        await late.ended.wait()
        ((_, error),) = late.ends
        assert isinstance(error, CancelledError)
        assert error.partial == "cut after 2"


async def test_who_comes_back_and_is_lost_again_can_come_back_again() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        _, address = await cut_off(ksi, 1)
        for number in range(1, 5):
            await asyncio.sleep(GRACE - 1)
            back = Reader(ksi, 1, "resume", address.encode())
            await asyncio.sleep(1)
            assert back.chunks == [b"%d" % number]
            address = back.addresses[0] or ""
            back.call.disconnected()
        await asyncio.sleep(GRACE + 1)
        assert (await outcome_of(ksi))["error"]["details"]["partial"] == "cut after 5"


async def test_a_reader_that_is_away_is_none_that_stalls() -> None:
    async with EventTestHarness(plugin(say), limits=Limits(disconnect_grace=100, stall_timeout=60)) as ksi:
        _, address = await cut_off(ksi, 1)
        await asyncio.sleep(90)
        back = Reader(ksi, 9, "resume", address.encode())
        await back.ended.wait()
        assert (back.code, len(back.chunks)) == ("ok", 5)


async def test_who_comes_back_to_an_earlier_place_reads_all_and_asks_for_no_more_than_he_says() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        lost, _ = await cut_off(ksi, 3)
        back = Reader(ksi, 4, "resume", f"{lost.call.stream}@0".encode())
        await asyncio.sleep(5)
        assert (back.chunks, made) == ([b"0", b"1", b"2", b"3"], 4)
        back.call.cancel()
        await back.ended.wait()


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("raw", "credit", "partial"),
    [(b'{"silent": true}', 5, "cut after 0"), (b'{"to": 99}', 50, "cut after 13"), (b"{}", 1, "cut after 3")],
    ids=["before the first", "in the middle", "without credit"],
)
async def test_a_cancel_of_who_came_back_reaches_the_work(raw: bytes, credit: int, partial: str, times: int) -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        _, address = await cut_off(ksi, 2, raw)
        back = Reader(ksi, credit, "resume", address.encode())
        await asyncio.sleep(1.15)
        for _ in range(times):
            back.call.cancel()
        await asyncio.sleep(0.01)
        ((_, error),) = back.ends
        assert isinstance(error, CancelledError)
        assert error.partial == partial
        assert not ksi.kernel.router.under_way
        assert (await outcome_of(ksi))["error"]["details"]["partial"] == partial


async def test_a_cancel_while_it_connects_reaches_the_work() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        opener = Reader(ksi, 5, "p:say")
        opener.call.disconnected()
        back = Reader(ksi, 5, "resume", f"{opener.call.stream}@0".encode())
        back.call.cancel()
        await asyncio.sleep(0.01)
        assert (back.code, ksi.kernel.router.under_way) == ("cancelled", set())


async def test_a_cancel_at_the_end_changes_nothing() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        _, address = await cut_off(ksi, 2)
        back = Reader(ksi, 9, "resume", address.encode())
        await back.ended.wait()
        back.call.cancel()
        assert (back.ends, (await outcome_of(ksi))["ok"]) == ([(b'"done"', None)], True)


async def test_a_cancel_by_the_requests_id_reaches_the_work_that_waits_for_its_reader() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        event_id = ids.new_id()
        reader, _ = await cut_off(ksi, 2, id=event_id)
        assert ksi.kernel.router.cancel(event_id, reader.session)
        await asyncio.sleep(0.01)
        assert not ksi.kernel.router.under_way


async def test_with_its_opener_there_one_who_reads_along_stops_only_his_reading() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        opener = Reader(ksi, 10, "p:say")
        await asyncio.sleep(0.15)
        along = Reader(ksi, 10, "resume", (opener.addresses[0] or "").encode())
        await asyncio.sleep(0.1)
        along.call.cancel()
        await opener.ended.wait()
        assert (along.code, opener.code, len(opener.chunks)) == ("cancelled", "ok", 6)


async def test_somebody_else_looks_on_and_neither_keeps_it_nor_ends_it() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        opener = Reader(ksi, 3, "p:say")
        await asyncio.sleep(0.15)
        one, two = (Onlooker(ksi, 100, opener.addresses[0] or "") for _ in range(2))
        await asyncio.sleep(1)
        one.call.cancel()
        assert (one.chunks, one.ends, made) == ([b"1", b"2"], [(b"null", None)], 3)
        opener.call.disconnected()
        await asyncio.sleep(GRACE + 1)
        assert (two.code, made) == ("cancelled", 3)


@pytest.mark.parametrize(
    ("leave", "ends_so"),
    [(lambda call: call.cancel(), "cancelled"), (lambda call: call.disconnected(), "ok")],
    ids=["cancels", "is lost"],
)
async def test_one_that_goes_on_by_itself_is_ended_by_a_word_and_not_by_a_lost_reader(
    leave: Callable[[Any], None], ends_so: str
) -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        envelope = EventEnvelope(name="p:say", raw=b"{}", principal="tester")
        session = Session(principal="tester", source="test")
        ksi.kernel.router.accept(envelope, session, lambda *_: None, None)
        await asyncio.sleep(0.15)
        reader = Reader(ksi, 1, "resume", f"p/{ids.text(envelope.event_id)}@0".encode())
        await asyncio.sleep(0.1)
        leave(reader.call)
        await asyncio.sleep(GRACE + 5)
        outcome = await outcome_of(ksi)
        assert ("ok" if outcome["ok"] else outcome["error"]["code"]) == ends_so


# ── where nobody is waited for ───────────────────────────────────────────────────────────────────────────────────────
async def test_what_can_not_be_gone_on_with_ends_at_once() -> None:
    async with EventTestHarness(plugin(shown)) as ksi:
        reader = Reader(ksi, 2, "p:shown")
        await turns()
        reader.call.disconnected()
        await turns()
        assert not ksi.kernel.router.under_way


async def test_a_daemon_that_stops_waits_for_nobody_to_come_back() -> None:
    async with EventTestHarness(plugin(say)) as ksi:
        await cut_off(ksi, 2)
        before = ksi.clock.time_us()
        await ksi.kernel.router.drain(30)
        assert ksi.clock.time_us() - before < 1_000_000
        assert (await outcome_of(ksi))["error"]["code"] == "cancelled"
