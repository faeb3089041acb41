"""Streams: chunks for credit, one end, and nothing lost with the reader."""

import asyncio

from ksi.transport.unix import UnixServer
from tests.transport.conftest import LineClient
from tests.transport.echo import EchoDoor


async def test_chunks_are_numbered_and_addressed_and_the_end_has_the_value(client: LineClient) -> None:
    client.send({"id": 8, "event": "test:count", "stream": True, "data": {"until": 2}})
    assert [await client.receive() for _ in range(3)] == [
        {"id": 8, "seq": 1, "at": "count/1@1", "data": 1},
        {"id": 8, "seq": 2, "at": "count/1@2", "data": 2},
        {"id": 8, "end": True, "data": "counted"},
    ]


async def test_no_chunk_comes_without_credit(client: LineClient) -> None:
    client.send({"id": 8, "event": "test:count", "stream": True, "credit": 1, "data": {"until": 3}})
    assert (await client.receive())["data"] == 1
    assert (await client.ask({"id": 9, "event": "test:echo"}))["id"] == 9
    client.send({"id": 8, "credit": 2})
    assert [(await client.receive())["data"] for _ in range(3)] == [2, 3, "counted"]


async def test_a_cancelled_stream_still_has_an_end(client: LineClient) -> None:
    client.send({"id": 8, "event": "test:count", "stream": True, "credit": 0})
    answer = await client.ask({"id": 8, "cancel": True})
    assert (answer["id"], answer["end"], answer["error"]["code"]) == (8, True, "cancelled")


async def test_resume_goes_on_after_an_address(client: LineClient) -> None:
    client.send({"id": 9, "resume": "count/1@8", "credit": 16})
    assert [(await client.receive())["data"] for _ in range(3)] == [9, 10, "resumed"]


async def test_a_lost_connection_disconnects_its_streams(
    client: LineClient, door: EchoDoor, server: UnixServer
) -> None:
    client.send({"id": 8, "event": "test:count", "stream": True, "credit": 0})
    await door.seen_count(1)
    client.writer.close()
    while not door.streams[0].is_disconnected:  # noqa: ASYNC110  # turns of the loop until the end of file is read
        await asyncio.sleep(0)
    assert server.common.budget.requests == 0
