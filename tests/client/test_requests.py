"""Requests of the client, over a real socket."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from ksi.client.client import EventClient, Options
from ksi.client.link import ON_WIRE_MAX
from ksi.core import ids
from ksi.core.clock import SystemClock
from ksi.core.context import bind_context
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    DeadlineExceededError,
    KSIConnectionError,
    KSITimeoutError,
    PayloadTooLargeError,
    UnauthorizedError,
    UnknownEventError,
    ValidationError,
)
from ksi.core.result import Failure, Success
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer
from tests.client.conftest import drop_connections
from tests.transport.echo import EchoDoor

TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
OTHER_TRACE = f"00-{'3' * 32}-{'4' * 16}-01"


async def test_fields_and_a_mapping_make_the_payload(client: EventClient) -> None:
    assert await client.request("test:echo", {"a": 1}, b=2, options=Options(priority=3)) == {"a": 1, "b": 2}


async def test_a_struct_is_a_payload(client: EventClient) -> None:
    class Point(msgspec.Struct):
        x: int

    assert await client.request("test:echo", Point(1)) == {"x": 1}


async def test_the_daemons_own_error_is_raised(client: EventClient) -> None:
    with pytest.raises(UnknownEventError) as caught:
        await client.request("test:ecko")
    assert caught.value.event_name == "test:ecko"
    assert caught.value.suggestions == ["test:echo"]


async def test_an_error_as_a_value(client: EventClient) -> None:
    assert await client.try_request("test:echo", a=1) == Success({"a": 1})
    match await client.try_request("test:ecko"):
        case Failure(error):
            assert isinstance(error, UnknownEventError)
        case _:
            pytest.fail("it is a failure")


async def test_a_dynamic_name_is_an_event(client: EventClient, door: EchoDoor) -> None:
    door.handlers["completion:async"] = lambda data, _: {"queued": data["prompt"]}
    assert await client.completion.async_(prompt="x") == {"queued": "x"}
    assert not callable(client.completion)
    with pytest.raises(AttributeError):
        _ = client._private


async def test_a_detached_request_gives_its_receipt(client: EventClient, door: EchoDoor) -> None:
    receipt = await client.send("test:echo", options=Options(correlation_id="run"))
    assert receipt.correlation_id == "run"
    assert door.seen[0].id == ids.parse(receipt.event_id)


async def test_the_event_that_is_handled_flows_along(client: EventClient, door: EchoDoor) -> None:
    deadline_us = SystemClock().time_us() + 5_000_000
    parent = EventEnvelope.create("a:b", traceparent=TRACE, deadline_us=deadline_us)
    with bind_context(parent):
        await client.request("test:echo")
    [child] = door.seen
    assert child.correlation == parent.correlation_id
    assert child.cause == parent.event_id
    assert child.traceparent == parent.trace_context
    assert child.deadline_us is not None
    assert abs(child.deadline_us - deadline_us) < 1_000_000


async def test_a_request_belongs_to_the_trace_that_is_said_or_to_that_of_the_environment(
    client: EventClient, door: EchoDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", OTHER_TRACE)
    await client.request("test:echo")
    await client.request("test:echo", options=Options(traceparent=TRACE))
    assert [request.traceparent for request in door.seen] == [OTHER_TRACE, TRACE]


async def test_nothing_is_asked_after_the_deadline(client: EventClient, door: EchoDoor) -> None:
    with bind_context(EventEnvelope.create("a:b", deadline_us=1)), pytest.raises(DeadlineExceededError):
        await client.request("test:echo")
    assert not door.seen


async def test_a_payload_that_is_no_json_or_too_large_never_leaves(client: EventClient, door: EchoDoor) -> None:
    with pytest.raises(ValidationError):
        await client.request("test:echo", x=float("nan"))
    with pytest.raises(PayloadTooLargeError):
        await client.request("test:echo", x="x" * (1 << 20))
    assert not door.seen


async def test_an_answer_as_large_as_may_be_arrives(client: EventClient, door: EchoDoor) -> None:
    door.handlers["test:large"] = lambda _data, _envelope: "x" * ((1 << 20) - 2)
    assert len(await client.request("test:large")) == (1 << 20) - 2


async def test_a_slow_request_does_not_hold_others(client: EventClient, door: EchoDoor) -> None:
    slow = asyncio.ensure_future(client.request("test:hold"))
    assert await client.request("test:echo", fast=True) == {"fast": True}
    door.held[0].answer("slow")
    assert await slow == "slow"


async def test_a_cancelled_task_cancels_at_the_daemon(client: EventClient, door: EchoDoor) -> None:
    task = asyncio.ensure_future(client.request("test:hold"))
    await door.seen_count(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.request("test:echo")
    assert door.held[0].is_cancelled


async def test_no_answer_in_time_is_an_error_and_a_cancel(client: EventClient, door: EchoDoor) -> None:
    with pytest.raises(KSITimeoutError):
        await client.request("test:hold", options=Options(timeout=0.001))
    await client.request("test:echo")
    assert door.held[0].is_cancelled


async def test_more_than_a_thousand_requests_wait_for_room(client: EventClient, door: EchoDoor) -> None:
    tasks = [asyncio.ensure_future(client.request("test:hold")) for _ in range(ON_WIRE_MAX + 10)]
    await door.seen_count(ON_WIRE_MAX)
    await asyncio.sleep(0)
    assert len(door.held) == ON_WIRE_MAX
    door.held[0].answer(0)
    await door.seen_count(ON_WIRE_MAX + 1)
    for call in door.held[1:]:
        call.answer(0)
    await door.seen_count(ON_WIRE_MAX + 10)
    for call in door.held[1:]:
        call.answer(0)
    assert await asyncio.gather(*tasks) == [0] * (ON_WIRE_MAX + 10)


async def test_a_lost_request_is_sent_again_under_the_same_id(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    task = asyncio.ensure_future(client.request("test:hold", x=1))
    await door.seen_count(1)
    drop_connections(server)
    await door.seen_count(2)
    first, second = door.held
    assert first.envelope.id == second.envelope.id is not None
    second.answer("again")
    assert await task == "again"


async def test_a_request_that_must_not_run_twice_is_not_sent_again(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    task = asyncio.ensure_future(client.request("test:hold", options=Options(idempotent=False)))
    await door.seen_count(1)
    assert door.seen[0].id is None
    drop_connections(server)
    with pytest.raises(KSIConnectionError):
        await task
    assert await client.request("test:echo") == {}
    assert len(door.held) == 1


async def test_a_request_waits_for_a_daemon_that_starts_again(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    await server.close(grace=0)
    task = asyncio.ensure_future(client.request("test:echo", x=1))
    await server.start()
    assert await task == {"x": 1}


async def test_who_goes_while_there_is_no_daemon_does_not_take_the_others_with_him(
    client: EventClient, door: EchoDoor, server: UnixServer
) -> None:
    leaving = asyncio.ensure_future(client.request("test:hold", who="leaving"))
    staying = asyncio.ensure_future(client.request("test:hold", who="staying"))
    await door.seen_count(2)
    await server.close(grace=0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await server.start()
    await door.seen_count(3)
    assert door.held[-1].envelope.data == {"who": "staying"}
    door.held[-1].answer("here")
    assert await staying == "here"


async def test_a_daemon_that_does_not_come_back_is_given_up(server: UnixServer) -> None:
    async with EventClient(server.path, reconnect_timeout=0.05) as client:
        await client.request("test:echo")
        await server.close(grace=0)
        with pytest.raises(KSIConnectionError, match="no daemon answers"):
            await client.request("test:echo")


async def test_nobody_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KSIConnectionError, match="ksi start"):
        await EventClient(tmp_path / "none.sock").connect()


async def test_closing_ends_what_waits(client: EventClient, door: EchoDoor) -> None:
    task = asyncio.ensure_future(client.request("test:hold"))
    await door.seen_count(1)
    await client.close()
    with pytest.raises(KSIConnectionError):
        await task
    with pytest.raises(KSIConnectionError):
        await client.request("test:echo")


async def test_a_client_with_a_token_is_its_principal_also_over_a_new_connection(
    door: EchoDoor, tmp_path: Path
) -> None:
    tokens = TokenStore(tmp_path / "tokens.json")
    async with (
        UnixServer(door, tmp_path / "other.sock", tokens=tokens) as server,
        EventClient(server.path, token=tokens.create("agent:ada")) as client,
    ):
        await client.request("test:echo")
        drop_connections(server)
        await client.request("test:echo")
    assert [envelope.principal for envelope in door.seen] == ["agent:ada"] * 2


async def test_a_wrong_token_is_the_error_of_each_request(
    door: EchoDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KSI_TOKEN", "ksi_0_wrong")
    tokens = TokenStore(tmp_path / "tokens.json")
    async with UnixServer(door, tmp_path / "other.sock", tokens=tokens) as server, EventClient(server.path) as client:
        with pytest.raises(UnauthorizedError):
            await client.request("test:echo")
        with pytest.raises(UnauthorizedError):
            await anext(client.stream("test:count"))
