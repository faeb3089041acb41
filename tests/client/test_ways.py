"""The same client over a Unix socket, a WebSocket and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.client import http
from ksi.client.client import EventClient, Options
from ksi.client.sync import SyncEventClient
from ksi.core import ids
from ksi.core.errors import (
    KSIConnectionError,
    PayloadTooLargeError,
    UnauthorizedError,
    UnknownEventError,
    ValidationError,
)
from ksi.wire.splitter import FRAME_BYTES_MAX
from tests.client.ways import WAYS, Way, Ways, opened


@pytest.fixture
async def ways(tmp_path: Path) -> AsyncIterator[Ways]:
    async with opened(tmp_path) as ways:
        yield ways


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture
async def client(ways: Ways, way: Way) -> AsyncIterator[EventClient]:
    async with ways.client(way) as client:
        yield client


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_request_has_its_answer_and_its_own_error(client: EventClient) -> None:
    assert await client.request("work:do", number=7) == 7
    with pytest.raises(UnknownEventError) as unknown:
        await client.request("work:od")
    assert unknown.value.event_name == "work:od"
    with pytest.raises(ValidationError):
        await client.request("work:do", number="seven")


async def test_what_stands_beside_the_payload_arrives(ways: Ways, client: EventClient) -> None:
    event_id = "01975f0c-3b1a-7c7e-9c55-6f8a54f0a8a3"
    options = Options(event_id=event_id, correlation_id="run", priority=3, timeout=5)
    for _ in range(2):
        assert await client.request("work:do", number=1, options=options) == 1
    facts = await ways.ksi.facts("work:*")
    assert [(fact.data, fact.correlation_id) for fact in facts] == [({"number": 1}, "run")]


# ── what no frame holds ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_chunk_that_no_frame_holds_is_an_error_over_each_way(client: EventClient) -> None:
    with pytest.raises(PayloadTooLargeError):
        async with asyncio.timeout(10), client.stream("work:large", size=FRAME_BYTES_MAX) as stream:
            await anext(aiter(stream))


async def test_a_line_that_the_client_can_not_read_is_an_error(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FRAME_BYTES_MAX", 0)
    with pytest.raises(PayloadTooLargeError):
        async with asyncio.timeout(10), ways.client("http") as client, client.stream("work:large", size=9_000) as said:
            await anext(aiter(said))


async def test_an_event_that_no_frame_holds_is_shown_without_its_data(client: EventClient) -> None:
    await client.request("work:write", size=FRAME_BYTES_MAX)
    await client.request("work:write", size=1)
    async with asyncio.timeout(10), client.subscribe("work:", after="start") as events:
        (large, small) = [(await anext(aiter(events))).data for _ in range(2)]
    assert (large["data"], large["data_bytes"] > FRAME_BYTES_MAX) == (None, True)
    assert (small["data"], "data_bytes" in small) == ({"text": "x"}, False)


async def test_a_detached_request_gives_its_receipt(client: EventClient) -> None:
    receipt = await client.send("work:do", number=1, options=Options(correlation_id="run"))
    assert receipt.correlation_id == "run"


async def test_a_wrong_token_is_the_error_of_each_request(ways: Ways, way: Way) -> None:
    ways.token = "ksi_0_wrong"
    with pytest.raises(UnauthorizedError):
        async with ways.client(way) as client:
            await client.request("work:do", number=1)


async def test_nobody_there_is_said_at_once(tmp_path: Path, way: Way) -> None:
    nowhere = {"unix": str(tmp_path / "none"), "ws": "ws://127.0.0.1:1/v1/ws", "http": "http://127.0.0.1:1"}
    with pytest.raises(KSIConnectionError, match="no daemon answers at"):
        await EventClient(nowhere[way]).connect()


async def test_code_without_a_loop_has_the_same_ways(ways: Ways, way: Way) -> None:
    def script() -> Any:
        where: dict[str, str | Path] = {
            "unix": ways.socket,
            "ws": f"ws://127.0.0.1:{ways.port}/v1/ws",
            "http": f"http://127.0.0.1:{ways.port}",
        }
        with SyncEventClient(where[way], token=ways.token) as client:
            return client.request("work:do", number=1), [chunk.data for chunk in client.stream("work:count", to=3)]

    assert await asyncio.to_thread(script) == (1, [1, 2, 3])


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_stream_has_addresses_and_an_end_and_is_resumed_by_one(client: EventClient) -> None:
    stream = client.stream("work:count", to=20)
    chunks = [chunk async for chunk in stream]
    assert [chunk.data for chunk in chunks] == list(range(1, 21))
    assert [chunk.seq for chunk in chunks] == list(range(1, 21))
    assert stream.end == "counted"
    assert chunks[9].at is not None
    resumed = client.resume(chunks[9].at)
    assert [chunk.data async for chunk in resumed] == list(range(11, 21))
    assert resumed.end == "counted"


async def test_the_error_of_a_stream_that_does_not_begin(client: EventClient) -> None:
    with pytest.raises(ValidationError):
        await anext(client.stream("work:count", to="many"))


async def test_streams_that_are_not_read_hold_nobody(client: EventClient) -> None:
    unread = [client.stream("work:talk", options=Options(buffer_size=1)).open() for _ in range(5)]
    assert [chunk.data async for chunk in client.stream("work:count", to=50)] == list(range(1, 51))
    assert await client.request("work:do", number=1) == 1
    for stream in unread:
        stream.close()


async def test_a_slow_loop_makes_a_slow_producer(ways: Ways, client: EventClient) -> None:
    async with client.stream("work:talk", options=Options(buffer_size=10)) as stream:
        for taken in range(1, 31):
            await anext(stream)
            await client.request("work:do", number=taken)  # a turn of both loops, in which it may make more
            assert ways.work.made <= taken + 10
        await _until_it_stands(ways)
        assert ways.work.made <= 30 + 10


async def _until_it_stands(ways: Ways) -> None:
    made = -1
    while made != ways.work.made:
        made = ways.work.made
        await asyncio.sleep(0.2)  # that nothing more is made can only be seen by looking again


async def test_a_subscription_catches_up_and_goes_live_and_a_handler_can_be_taken_off(client: EventClient) -> None:
    await client.request("work:do", number=1)
    heard: list[int] = []
    news = asyncio.Condition()

    async def handle(event: Any) -> None:
        async with news:
            heard.append(event["data"]["number"])
            news.notify_all()

    async with client.subscribe("work:", after="start") as facts:
        subscription = await client.subscribe_to_events("work:*", handle)
        assert (await anext(facts)).data["data"] == {"number": 1}
        async with news, asyncio.timeout(10):
            number = 1
            while not heard:  # it hears what comes from now on, and now is when the daemon has heard of it
                number += 1
                await client.request("work:do", number=number)
                with_patience = asyncio.ensure_future(asyncio.wait_for(news.wait(), 0.2))
                await asyncio.wait([with_patience])
        assert (await anext(facts)).data["data"] == {"number": 2}
    await subscription.unsubscribe()
    count = len(heard)
    await client.request("work:do", number=99)
    assert len(heard) == count


async def test_a_subscriber_that_dies_with_an_event_in_its_hands_gets_it_again(ways: Ways) -> None:
    for number in range(1, 21):
        await ways.ksi.request("work:do", {"number": number})
    seen: list[list[int]] = []
    for count in (5, 5, 12):
        async with (
            ways.client("ws") as client,
            client.subscribe("work:", after="checkpoint", subscriber="audit") as facts,
        ):
            seen.append([(await anext(facts)).data["data"]["number"] for _ in range(count)])
    assert seen == [list(range(1, 6)), list(range(5, 10)), list(range(9, 21))]


async def test_a_subscription_from_a_checkpoint_says_where_that_was(ways: Ways, client: EventClient) -> None:
    async with client.subscribe("work:", after="checkpoint", subscriber="audit") as facts:
        while facts.at is None:  # noqa: ASYNC110  # turns of the loop until its first frame is here
            await asyncio.sleep(0)
        assert facts.at == "@0"


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("event", ["work:wait", "work:hold"])
async def test_a_cancelled_task_cancels_at_the_daemon(ways: Ways, client: EventClient, event: str) -> None:
    task = asyncio.ensure_future(client.request(event))
    await ways.work.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ways.idle()
    assert ways.work.said == [f"{'query' if event == 'work:wait' else 'command'} cancelled"]


@pytest.mark.parametrize("turns", [0, 1, 4, 16, 64])
async def test_a_command_that_is_cancelled_on_its_way_does_not_go_on(
    ways: Ways, client: EventClient, turns: int
) -> None:
    task = asyncio.ensure_future(client.request("work:hold"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.request("work:do", number=1)
    await ways.idle()


async def test_a_stream_that_would_go_on_without_its_reader_is_cancelled_too(ways: Ways, client: EventClient) -> None:
    stream = client.stream("work:count", to=1_000_000)
    await anext(stream)
    stream.cancel()
    async for _ in stream:
        pass
    await ways.idle()


@pytest.mark.parametrize("moment", ["connecting", "before the first", "in the middle", "at the end", "twice"])
async def test_a_cancel_at_any_moment_is_one_end_with_what_was_used(
    ways: Ways, client: EventClient, moment: str
) -> None:
    stream = client.stream("work:talk", silent=moment == "before the first", to=5 if moment == "at the end" else 10**6)
    if moment == "connecting":
        stream.open()
    elif moment == "before the first":
        stream.open()
        await ways.work.began.wait()
    else:
        for _ in range(5 if moment == "at the end" else 3):
            await anext(stream)
    stream.cancel()
    if moment == "twice":
        stream.cancel()
    async with asyncio.timeout(10):
        rest = [chunk async for chunk in stream]
    assert [chunk async for chunk in stream] == []
    await ways.idle()
    if moment not in ("connecting", "at the end"):
        assert stream.end == {"used": ways.work.made}
        assert ways.work.said == ["stream cancelled"]
    assert len(rest) <= 40 or moment == "connecting"
    assert await client.request("work:do", number=1) == 1


@pytest.mark.parametrize("moment", ["connecting", "before the first", "in the middle", "at the end", "twice"])
async def test_a_cancel_of_a_stream_that_another_client_began_and_lost_reaches_its_work(
    ways: Ways, way: Way, moment: str
) -> None:
    event_id = ids.text(ids.new_id())
    data = {"silent": moment == "before the first", "to": 9 if moment == "at the end" else 10**6}
    async with ways.client(way) as first:  # when it is closed, its stream is as one whose connection was cut
        lost = first.stream("work:talk", data, options=Options(event_id=event_id, buffer_size=4)).open()
        await ways.work.began.wait()
        if moment != "before the first":
            await anext(lost)
    async with ways.client(way) as client, asyncio.timeout(10):
        stream = client.resume(f"work/{event_id}@0", options=Options(buffer_size=6))
        if moment not in ("connecting", "before the first"):
            for _ in range(9 if moment == "at the end" else 5):
                await anext(stream)
        stream.open().cancel()
        if moment == "twice":
            stream.cancel()
        async for _ in stream:
            pass
        await ways.idle()
        assert ways.work.said == ["stream ended" if moment == "at the end" else "stream cancelled"]
        assert stream.end == {"used": ways.work.made}
        assert await client.request("work:do", number=1) == 1
