"""The original clients: no ids, one answer after the other, pushes behind the answers."""

import msgspec

from tests.transport.conftest import LineClient
from tests.transport.echo import EchoDoor


async def test_a_flat_answer_is_the_handlers_object_with_the_correlation(client: LineClient) -> None:
    frame = {"event": "test:echo", "data": {"x": 1}, "correlation_id": "c1"}
    assert await client.ask(frame) == {"x": 1, "correlation_id": "c1"}


async def test_health_works_without_a_correlation(client: LineClient) -> None:
    assert await client.ask({"event": "system:health"}) == {"status": "healthy"}


async def test_a_flat_error_is_a_text(client: LineClient) -> None:
    answer = await client.ask({"event": "nobody:knows", "correlation_id": "c1"})
    assert isinstance(answer["error"], str)
    assert (answer["code"], answer["correlation_id"]) == ("unknown_event", "c1")


async def test_flat_requests_are_answered_in_their_order(client: LineClient, door: EchoDoor) -> None:
    client.send({"event": "test:hold"}, {"event": "test:echo", "data": {"second": True}}, b"garbage")
    await door.seen_count(1)
    assert len(door.seen) == 1
    door.held[0].answer({"first": True})
    assert [await client.receive() for _ in range(2)] == [{"first": True}, {"second": True}]
    assert (await client.receive())["code"] == "invalid_frame"


async def test_a_frame_with_a_client_id_gets_the_newer_form(client: LineClient) -> None:
    answer = await client.ask({"event": "test:echo", "data": {"x": 1}, "correlation_id": "c1", "_client_id": "me"})
    assert answer.pop("timestamp")
    assert answer == {"event": "test:echo", "data": {"x": 1}, "count": 1, "correlation_id": "c1"}


async def test_a_newer_clients_error_is_at_top_level(client: LineClient) -> None:
    answer = await client.ask({"event": "nobody:knows", "correlation_id": "c1", "_client_id": "me"})
    assert answer["code"] == "unknown_event"
    assert isinstance(answer["error"], str)


async def test_a_push_goes_out_behind_the_answer_of_its_run(client: LineClient, door: EchoDoor) -> None:
    client.send({"event": "test:hold", "correlation_id": "c1"})
    await door.seen_count(1)
    channel = door.sessions[0].reply_channel
    assert channel is not None
    channel.push({"event": "completion:result", "correlation_id": "c1", "data": 1})
    channel.push({"event": "completion:result", "correlation_id": "c2", "data": 2})
    assert (await client.receive())["correlation_id"] == "c2"
    door.held[0].answer({"status": "queued"})
    assert await client.receive() == {"status": "queued", "correlation_id": "c1"}
    assert (await client.receive())["data"] == 1


async def test_a_push_by_a_handler_that_does_not_wait_is_behind_its_answer(client: LineClient, door: EchoDoor) -> None:
    def pushes(data: object, envelope: object) -> object:
        channel = door.sessions[-1].reply_channel
        assert channel is not None
        channel.push({"event": "late", "correlation_id": "c1"})
        return {"early": True}

    door.handlers["test:push"] = pushes
    for frame in ({"event": "test:push", "correlation_id": "c1"}, {"id": 5, "event": "test:push"}):
        client.send(frame)
        first, second = await client.receive(), await client.receive()
        assert "early" in first or first.get("ok")
        assert second["event"] == "late"


async def test_the_last_line_needs_no_newline_and_a_half_closed_client_gets_its_answers(
    client: LineClient, door: EchoDoor
) -> None:
    client.writer.write(b'{"id":1,"event":"test:hold"}\n{"event":"test:echo","data":{"x":1}}')
    client.writer.write_eof()
    assert await client.receive() == {"x": 1}
    door.held[0].answer({})
    assert msgspec.json.decode(await client.at_end()) == {"id": 1, "ok": True, "data": {}}
