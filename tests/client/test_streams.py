"""Streams and subscriptions of the client."""

import asyncio
from typing import Any

import pytest

from ksi.client.client import Chunk, EventClient, Options
from ksi.core.errors import CancelledError
from ksi.transport.unix import UnixServer
from tests.client.conftest import drop_connections
from tests.transport.echo import EchoDoor


async def test_chunks_come_with_their_address_and_the_end_with_its_value(client: EventClient) -> None:
    stream = client.stream("test:count", until=2)
    assert [chunk async for chunk in stream] == [Chunk(1, "count/1@1", 1), Chunk(2, "count/1@2", 2)]
    assert stream.end == "counted"


async def test_the_end_value_of_a_request_that_streams_nothing(client: EventClient) -> None:
    stream = client.stream("test:count", until=0)
    assert [chunk async for chunk in stream] == []
    assert stream.end == "counted"


async def test_a_slow_reader_gets_no_more_than_its_buffer(client: EventClient, door: EchoDoor) -> None:
    async with client.stream("test:count", until=1000, options=Options(buffer_size=4)) as stream:
        await anext(stream)
        await client.request("test:echo")
        assert door.streams[0].sent <= 4 + 2
        assert [chunk.data async for chunk in stream] == list(range(2, 1001))


async def test_a_stream_that_is_not_read_holds_nobody(client: EventClient) -> None:
    async with client.stream("test:count", until=1000):
        for n in range(100):
            assert await client.request("test:echo", n=n) == {"n": n}


async def test_a_cancelled_stream_ends_its_loop(client: EventClient, door: EchoDoor) -> None:
    stream = client.stream("test:count", until=1000, options=Options(buffer_size=2))
    seen = []
    async for chunk in stream:
        seen.append(chunk.data)
        if chunk.data == 3:
            stream.cancel()
    assert len(seen) < 10
    assert door.streams[0].is_ended


async def test_a_stream_that_is_cancelled_before_it_is_asked_for_never_is(client: EventClient, door: EchoDoor) -> None:
    stream = client.stream("test:count", until=1000)
    stream.cancel()
    async with stream:
        assert [chunk async for chunk in stream] == []
    assert door.streams == []


async def test_somebody_elses_cancel_is_an_error(client: EventClient, door: EchoDoor) -> None:
    stream = client.stream("test:count", until=1000, options=Options(buffer_size=2))
    await anext(stream)
    door.streams[0].cancel()
    with pytest.raises(CancelledError):
        async for _ in stream:
            pass


async def test_leaving_the_block_cancels_at_the_daemon(client: EventClient, door: EchoDoor) -> None:
    async with client.stream("test:count", until=1000) as stream:
        await anext(stream)
    await client.request("test:echo")
    assert door.streams[0].is_ended


async def test_a_cancelled_task_cancels_its_stream_at_the_daemon(client: EventClient, door: EchoDoor) -> None:
    async def read() -> None:
        async for _ in client.subscribe("*", options=Options(buffer_size=1)):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(read())
    await door.seen_count(1)
    stream = client.stream("test:count", options=Options(buffer_size=1), first=5, until=4)
    assert [chunk async for chunk in stream] == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_waiting_reader_that_is_cancelled_cancels_at_the_daemon(client: EventClient, door: EchoDoor) -> None:
    door.is_silent = True
    waiting = asyncio.ensure_future(anext(client.stream("test:count", until=1000)))
    await door.seen_count(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await client.request("test:echo")
    assert door.streams[0].is_ended


async def test_a_stream_resumes_over_a_new_connection_without_gap_or_double(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    seen = []
    async for chunk in client.stream("test:count", until=10, options=Options(buffer_size=2)):
        seen.append(chunk.data)
        if chunk.data in (3, 7):
            drop_connections(server)
    assert seen == list(range(1, 11))
    assert len(door.streams) == 3


async def test_resume_goes_on_after_an_address(client: EventClient) -> None:
    stream = client.resume("count/1@7")
    assert [chunk.data async for chunk in stream] == [8, 9, 10]
    assert stream.end == "resumed"


async def test_a_subscription_goes_on_after_the_last_event(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    seen = []
    async with client.subscribe("agent:", after="start", options=Options(buffer_size=2)) as events:
        async for event in events:
            seen.append(event.at)
            if event.seq == 5:
                drop_connections(server)
            if event.seq == 20:
                break
    assert seen == [f"@{n}" for n in range(1, 21)]
    assert door.seen[0].data == {"pattern": "agent:", "after": "start"}
    assert door.seen[1].data["pattern"] == "agent:"


async def test_a_subscription_that_is_lost_before_its_first_event_goes_on_from_the_same_end(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    door.head, door.is_silent = 41, True
    async with client.subscribe("agent:") as events:
        await door.seen_count(1)
        await client.request("test:echo")  # behind the frame that says where the end was
        drop_connections(server)
        door.head, door.is_silent = 50, False
        assert (await anext(events)).at == "@42"


async def test_a_handler_is_called_until_it_unsubscribes_and_its_faults_are_its_own(client: EventClient) -> None:
    seen: list[Any] = []
    enough = asyncio.Event()

    async def handle(event: Any) -> None:
        seen.append(event)
        if len(seen) == 3:
            enough.set()
        raise RuntimeError("a fault")

    subscription = await client.subscribe_to_events("agent:*", handle)
    await enough.wait()
    await subscription.unsubscribe()
    count = len(seen)
    await client.request("test:echo")
    assert len(seen) == count


async def test_stream_event_gives_the_data(client: EventClient) -> None:
    assert [data async for data in client.stream_event("test:count", {"until": 3}, buffer_size=1)] == [1, 2, 3]
