"""The protocol over a real Unix socket."""

import asyncio
import os
import sys
from typing import Any

import pytest

from ksi.core import ids
from ksi.transport.budget import Limits
from ksi.transport.unix import UnixServer
from tests.transport.conftest import Connect, LineClient
from tests.transport.echo import EchoDoor


async def test_an_answer_carries_the_requests_id(client: LineClient) -> None:
    assert await client.ask({"id": 7, "event": "test:echo", "data": {"x": 1}}) == {
        "id": 7,
        "ok": True,
        "data": {"x": 1},
    }


async def test_a_text_is_an_id_too(client: LineClient) -> None:
    assert (await client.ask({"id": "a\n", "event": "test:echo"}))["id"] == "a\n"


async def test_an_error_has_code_message_and_facts(client: LineClient) -> None:
    answer = await client.ask({"id": 7, "event": "test:ecko"})
    assert answer["ok"] is False
    assert answer["error"]["code"] == "unknown_event"
    assert answer["error"]["details"]["suggestions"] == ["test:echo"]


async def test_an_event_without_a_name_is_unknown_and_costs_nobody_the_connection(
    client: LineClient, door: EchoDoor
) -> None:
    await client.ask({"id": 1, "event": "test:echo", "data": {}})  # learned: from now on lines are read in one pass
    client.send({"id": 2, "event": "test:hold"})
    for frame in ({"id": 3, "event": ""}, {"id": 3, "event": "", "data": {}}, {"id": 3, "event": "", "priority": 1}):
        assert (await client.ask(frame))["error"]["code"] == "unknown_event"
    assert (await client.ask({"event": ""}))["code"] == "unknown_event"
    door.held[0].answer({})
    assert (await client.receive()) == {"id": 2, "ok": True, "data": {}}


async def test_a_slow_request_does_not_hold_a_fast_one(client: LineClient, door: EchoDoor) -> None:
    client.send({"id": 1, "event": "test:hold"}, {"id": 2, "event": "test:echo"})
    assert (await client.receive())["id"] == 2
    door.held[0].answer({"late": True})
    assert await client.receive() == {"id": 1, "ok": True, "data": {"late": True}}


async def test_an_id_in_flight_is_answered_without_id(client: LineClient, door: EchoDoor) -> None:
    answer = await client.ask(b'{"id":1,"event":"test:hold"}\n{"id":1,"event":"test:echo"}')
    assert answer["id"] is None
    assert answer["error"]["code"] == "invalid_frame"
    assert answer["error"]["details"]["id"] == 1
    door.held[0].answer({})
    assert (await client.receive())["ok"] is True


async def test_metadata_of_a_frame_is_the_envelopes(client: LineClient, door: EchoDoor) -> None:
    event_id, cause = ids.new_id(), ids.new_id()
    await client.ask(
        {
            "id": 1,
            "event": "test:echo",
            "event_id": ids.text(event_id),
            "causation_id": ids.text(cause),
            "correlation_id": "run",
            "branch": "fork",
            "priority": 5,
            "timeout": 10.0,
            "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
            "surprise": [1, 2],
        }
    )
    [envelope] = door.seen
    assert (envelope.id, envelope.cause, envelope.correlation) == (event_id, cause, "run")
    assert (envelope.branch, envelope.priority) == ("fork", 5)
    assert envelope.principal == f"uid:{os.getuid()}"
    assert envelope.metadata.trace_id == "1" * 32
    assert envelope.deadline_us is not None


async def test_an_event_id_that_is_none_is_refused(client: LineClient) -> None:
    answer = await client.ask({"id": 1, "event": "test:echo", "event_id": "tomorrow"})
    assert answer["id"] == 1
    assert answer["error"]["details"]["field"] == "event_id"


async def test_hello_tells_who_is_who(client: LineClient, door: EchoDoor) -> None:
    assert await client.ask({"hello": 1, "client": "me"}) == {
        "hello": 1,
        "server": "ksi/0.1.0",
        "principal": f"uid:{os.getuid()}",
        "pid": os.getpid(),
    }
    await client.ask({"id": 1, "event": "test:echo"})
    assert door.seen[0].source == "me"


async def test_a_detached_request_is_answered_with_its_receipt(client: LineClient) -> None:
    answer = await client.ask({"id": 1, "event": "test:echo", "reply": False, "correlation_id": "run"})
    assert answer["data"]["correlation_id"] == "run"
    assert ids.parse(answer["data"]["event_id"])


async def test_garbage_is_answered_and_the_connection_lives_on(client: LineClient) -> None:
    answer = await client.ask(b"\xff{]")
    assert (answer["id"], answer["error"]["code"]) == (None, "invalid_frame")
    assert (await client.ask({"id": 1, "event": "test:echo"}))["ok"] is True


async def test_blank_lines_say_nothing(client: LineClient) -> None:
    assert (await client.ask(b'\n \r\n{"id":1,"event":"test:echo"}\r'))["id"] == 1


async def test_a_cancelled_request_ends_with_its_error(client: LineClient, door: EchoDoor) -> None:
    client.send({"id": 1, "event": "test:hold"}, {"id": 1, "cancel": True})
    answer = await client.receive()
    assert (answer["id"], answer["error"]["code"]) == (1, "cancelled")
    assert door.held[0].is_cancelled


async def test_credit_and_cancel_of_an_ended_request_are_counted(client: LineClient, server: UnixServer) -> None:
    client.send({"id": 1, "event": "test:echo"}, {"id": 1, "credit": 4}, {"id": 1, "cancel": True})
    await client.receive()
    await client.ask({"id": 2, "event": "test:echo"})
    assert server.common.late_frames == 2


async def test_a_lost_connection_lets_requests_go_on(client: LineClient, door: EchoDoor, server: UnixServer) -> None:
    client.send({"id": 1, "event": "test:hold"})
    await door.seen_count(1)
    client.writer.transport.abort()
    while server.common.connections:  # the loop's own turns; nothing else tells of the loss
        for connection in server.common.connections:
            connection.abort()
        await asyncio.sleep(0)
    assert not door.held[0].is_cancelled
    door.held[0].answer({})
    assert server.common.budget.requests == 0
    assert server.common.budget.bytes == 0


async def test_answers_of_different_connections_do_not_mix(connect: Connect, door: EchoDoor) -> None:
    one, other = await connect(), await connect()
    one.send({"id": 1, "event": "test:hold"})
    await door.seen_count(1)
    assert (await other.ask({"id": 1, "event": "test:echo", "data": {"other": True}}))["data"] == {"other": True}
    door.held[0].answer({"one": True})
    assert (await one.receive())["data"] == {"one": True}


class TestSmallLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(frame_bytes_max=1000, in_flight_max=2, turn_frames_max=4, connections_max=2)

    async def test_one_more_in_flight_is_overloaded(self, client: LineClient, door: EchoDoor) -> None:
        client.send(*({"id": n, "event": "test:hold"} for n in range(3)))
        answer = await client.receive()
        assert (answer["id"], answer["error"]["code"]) == (2, "overloaded")
        client.send({"id": 0, "cancel": True})
        assert (await client.receive())["error"]["code"] == "cancelled"
        client.send({"id": 3, "event": "test:hold"})
        await door.seen_count(3)

    async def test_a_line_that_is_too_long_is_refused_and_the_next_is_read(self, client: LineClient) -> None:
        answer = await client.ask(b"x" * 5000)
        assert (answer["id"], answer["error"]["code"]) == (None, "payload_too_large")
        assert (await client.ask({"id": 1, "event": "test:echo"}))["ok"] is True

    async def test_an_answer_that_is_too_large_is_an_error(self, client: LineClient, door: EchoDoor) -> None:
        door.handlers["test:large"] = lambda _data, _envelope: "x" * 2000
        assert (await client.ask({"id": 1, "event": "test:large"}))["error"]["code"] == "payload_too_large"

    async def test_one_connection_gets_only_its_share_of_a_turn(self, connect: Connect, door: EchoDoor) -> None:
        greedy, modest = await connect(), await connect()
        await greedy.ask({"id": 0, "event": "test:echo"})
        await modest.ask({"id": 0, "event": "test:echo"})
        door.seen.clear()
        greedy.send(*({"id": n, "event": "test:echo", "data": {"greedy": n}} for n in range(100)))
        modest.send({"id": 1, "event": "test:echo", "data": {"modest": 1}})
        await modest.receive()
        while (await greedy.receive())["id"] != 99:
            pass
        assert [envelope.data for envelope in door.seen].index({"modest": 1}) < 50

    async def test_one_connection_too_many_is_told_so(self, connect: Connect) -> None:
        kept = [await connect(), await connect()]
        for client in kept:
            await client.ask({"id": 1, "event": "test:echo"})
        refused = await connect()
        assert (await refused.receive())["error"]["code"] == "overloaded"
        assert await refused.at_end() == b""


class TestNoRoom:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(inbound_bytes_max=3000, inbound_bytes_free=500)

    async def test_requests_in_flight_share_a_budget_and_cancel_gets_through(
        self, connect: Connect, door: EchoDoor
    ) -> None:
        one, other = await connect(), await connect()
        one.send({"id": 1, "event": "test:hold", "data": {"text": "x" * 4000}})
        await door.seen_count(1)
        assert (await other.ask({"id": 1, "event": "test:echo"}))["error"]["code"] == "overloaded"
        assert (await one.ask({"id": 1, "cancel": True}))["error"]["code"] == "cancelled"
        assert (await other.ask({"id": 2, "event": "test:echo"}))["ok"] is True

    async def test_reading_of_a_long_line_goes_on_when_there_is_room_again(
        self, connect: Connect, door: EchoDoor, server: UnixServer
    ) -> None:
        one, other = await connect(), await connect()
        one.send({"id": 1, "event": "test:hold", "data": {"text": "x" * 4000}})
        await door.seen_count(1)
        head, tail = b'{"id":2,"event":"test:echo","data":{"text":"' + b"y" * 2000, b'"}}\n'
        other.writer.write(head)
        while server.common.budget.bytes < 5000:  # noqa: ASYNC110  # turns of the loop until it has read
            await asyncio.sleep(0)
        door.held[0].answer({})
        other.writer.write(tail)
        assert (await other.receive())["id"] == 2


class TestStalled:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(write_bytes_high=1000, stall_timeout=0.05)

    async def test_a_client_that_never_reads_is_cut_off(
        self, client: LineClient, door: EchoDoor, server: UnixServer
    ) -> None:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport reads
        client.send(*({"id": n, "event": "test:echo", "data": {"text": "x" * 100_000}} for n in range(20)))
        await door.seen_count(1)
        while server.common.connections:  # noqa: ASYNC110  # the stall's timer is the loop's
            await asyncio.sleep(0)


async def test_how_a_line_was_read_is_no_cause_of_what_its_handler_raises(
    client: LineClient, door: EchoDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, dispatch = [], door.dispatch

    def noting(*given: Any) -> Any:
        seen.append(sys.exception())
        return dispatch(*given)

    monkeypatch.setattr(door, "dispatch", noting)
    await client.ask({"id": 1, "event": "test:echo"})
    await client.ask({"id": 2, "event": "test:echo", "priority": 3})
    assert seen == [None, None]
