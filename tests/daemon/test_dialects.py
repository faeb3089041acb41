"""The original clients, unmodified, and the faults of the original daemon that they met."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.test_doors import LINE_MAX, Stranger

LINE_OF_THE_OLDER_CLIENT = 1 << 16


@pytest.fixture
async def old(daemon: DaemonProcess) -> AsyncIterator[Stranger]:
    """The older client: no ids, flat answers, lines of at most 64 KiB."""
    old = Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_OF_THE_OLDER_CLIENT))
    yield old
    old.hang_up()


async def ask(client: Stranger, event: str, **data: Any) -> dict[str, Any]:
    answer = await client.ask({"event": event, "data": data, "correlation_id": f"c-{event}"})
    assert answer["correlation_id"] == f"c-{event}"
    return dict(answer)


async def test_health_works_without_a_correlation_id(old: Stranger) -> None:
    answer = await old.ask(b'{"event":"system:health"}')
    assert answer["status"] == "healthy"
    assert "error" not in answer
    assert "correlation_id" not in answer


async def test_discovery_fits_the_older_clients_line(old: Stranger) -> None:
    events = (await ask(old, "system:discover"))["events"]
    (state_set,) = [event for event in events["state"] if event["event"] == "state:set"]
    assert state_set["parameters"]["key"]["required"] is True
    assert {"type", "required", "description"} <= state_set["parameters"]["key"].keys()
    (completion,) = [event for event in events["completion"] if event["event"] == "completion:async"]
    assert completion["parameters"]["session_id"]["type"] != "str"


async def test_profiles_are_lists(old: Stranger) -> None:
    profiles = (await ask(old, "permission:list_profiles"))["profiles"]
    assert {"restricted", "standard", "trusted", "researcher"} <= profiles.keys()
    for profile in profiles.values():
        assert isinstance(profile["tools"]["allowed"], list)
        assert isinstance(profile["tools"]["disallowed"], list)


async def test_a_text_of_digits_stays_a_text(old: Stranger) -> None:
    await ask(old, "state:set", key="a", value="123")
    assert (await ask(old, "state:get", key="a"))["value"] == "123"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ("system:nothing", "unknown_event"),
        ("monitor:subscribe", "unknown_event"),
        ("completion:session_status", "unknown_event"),
        ("conversation:active", "unknown_event"),
        ("injection:list", "unknown_event"),
        ("message:subscribe", "validation_error"),
        ("event:subscribe", "unsupported"),
        ("mixed:raises", "internal_error"),
        ("mixed:none", "no_answer"),
    ],
)
async def test_what_once_had_no_reply_is_answered_with_an_error(old: Stranger, event: str, code: str) -> None:
    answer = await ask(old, event)
    assert isinstance(answer["error"], str)
    assert answer["code"] == code


async def test_what_has_no_answer_says_so_and_is_not_begun(old: Stranger) -> None:
    answer = await ask(old, "message:subscribe", topic="x")
    assert answer["code"] == "unsupported"
    assert "as a stream" in answer["error"]
    assert (await ask(old, "system:health"))["in_flight"] == 1, "that one"


async def test_an_empty_result_is_a_success(old: Stranger) -> None:
    assert await ask(old, "mixed:empty") == {"correlation_id": "c-mixed:empty"}


async def test_a_line_over_64_kib_is_served(old: Stranger) -> None:
    assert (await ask(old, "state:set", key="long", value="x" * 200_000))["version"] == 1


async def test_a_frame_with_a_client_id_gets_the_newer_form(daemon: DaemonProcess) -> None:
    new = Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_MAX))
    answer = await new.ask({"event": "state:get", "data": {"key": "a"}, "correlation_id": "c1", "_client_id": "me"})
    assert answer.keys() == {"event", "data", "count", "correlation_id", "timestamp"}
    assert (answer["event"], answer["count"], answer["correlation_id"]) == ("state:get", 1, "c1")
    new.hang_up()


async def test_a_correlation_id_stays_with_its_connection(old: Stranger, daemon: DaemonProcess) -> None:
    await old.ask({"event": "state:set", "data": {"key": "a", "value": 1}, "correlation_id": "mine"})
    async with daemon.client() as other:
        await other.request("state:set", key="b", value=1)
        page = await other.request("log:read", pattern="state:set", kinds=["request"])
    runs = [request["correlation_id"] for request in page["events"]]
    assert runs[0] == "mine"
    assert runs[1] not in ("mine", None)


async def test_protocol_requests_do_not_wait_for_each_other(old: Stranger) -> None:
    answer = await old.ask(
        b'{"id":1,"event":"mixed:wait","data":{"name":"a"}}\n{"id":2,"event":"mixed:inline","data":{"number":2}}'
    )
    assert answer["id"] == 2
    assert {(await old.ask(b'{"id":3,"event":"mixed:open"}'))["id"], (await old.receive())["id"]} == {1, 3}


async def test_a_slow_flat_request_does_not_hold_back_another_connection(old: Stranger, daemon: DaemonProcess) -> None:
    waiting = asyncio.create_task(ask(old, "mixed:wait", name="b"))
    async with daemon.client() as other:
        assert await other.request("mixed:inline", number=1) == 1
        await other.request("mixed:open")
    assert (await waiting)["result"] == "b"


async def test_shutdown_answers_before_it_stops(old: Stranger, daemon: DaemonProcess) -> None:
    assert (await ask(old, "system:shutdown"))["status"] == "shutting_down"
    assert await daemon.ended() == 0


async def test_requests_leave_no_lines_in_the_daemons_own_log(old: Stranger, daemon: DaemonProcess) -> None:
    for number in range(50):
        await ask(old, "state:set", key="a", value=number)
        await ask(old, "system:nothing")
    await daemon.stop()
    lines = lines_of(daemon.home.logs / "daemon.log")
    assert {line.split()[1] for line in lines} <= {"info", "warning"}
    assert [line for line in lines if "state:" in line or "system:" in line] == []
    assert len(lines) < 10


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()
