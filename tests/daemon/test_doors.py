"""What strangers, slow readers and lost connections do to a daemon: nothing."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.client.client import EventClient, Options
from ksi.core import ids
from ksi.core.errors import PayloadTooLargeError
from ksi.daemon import FILES
from ksi.testing.daemon_process import DaemonProcess

LINE_MAX = 1 << 22


class Stranger:
    """Somebody with a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, line: bytes | dict[str, Any]) -> Any:
        self._writer.write((line if isinstance(line, bytes) else msgspec.json.encode(line)) + b"\n")
        return await self.receive()

    async def receive(self) -> Any:
        async with asyncio.timeout(30):
            return msgspec.json.decode(await self._reader.readuntil(b"\n"))

    def hang_up(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[EventClient]:
    async with daemon.client() as client:
        yield client


@pytest.fixture
async def stranger(daemon: DaemonProcess) -> AsyncIterator[Stranger]:
    stranger = Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_MAX))
    yield stranger
    stranger.hang_up()


# ── lost connections ─────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_command_whose_asker_is_gone_is_done_and_recorded(stranger: Stranger, client: EventClient) -> None:
    event_id = ids.text(ids.new_id())
    wait = {"id": 1, "event": "mixed:wait", "data": {"name": "gone"}, "event_id": event_id}
    await stranger.ask(msgspec.json.encode(wait) + b'\n{"id":2,"event":"system:health"}')  # the answer is the second's
    stranger.hang_up()
    await client.request("mixed:open")
    assert await client.request("mixed:wait", name="gone", options=Options(event_id=event_id)) == "gone"
    assert (await client.request("state:get", key="gone"))["version"] == 1


async def test_a_stream_whose_reader_is_gone_is_cancelled(stranger: Stranger, client: EventClient) -> None:
    first = await stranger.ask({"id": 1, "event": "mixed:endless", "data": {"name": "gone"}, "stream": True})
    assert first["data"] == 0
    stranger.hang_up()
    async with asyncio.timeout(30), client.subscribe("mixed:endless", after="start", kinds=["outcome"]) as outcomes:
        outcome = await anext(outcomes)
    assert outcome.data["data"]["error"]["code"] == "cancelled"
    assert await client.request("mixed:ended") == ["gone CancelledError"]


async def test_a_stream_whose_opener_is_gone_goes_on_for_one_who_joined_it(daemon: DaemonProcess) -> None:
    event_id = ids.text(ids.new_id())
    data = {"name": "joined", "to": 300}
    frame = {"id": 1, "event": "mixed:count", "data": data, "stream": True, "credit": 4, "event_id": event_id}
    opener, joiner = [
        Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_MAX)) for _ in range(2)
    ]
    assert (await opener.ask(frame))["data"] == 0
    assert (await joiner.ask({**frame, "credit": 1_000}))["data"] == 0
    opener.hang_up()
    frames = [await joiner.receive() for _ in range(300)]
    assert [frame.get("data") for frame in frames] == [*range(1, 300), 300]
    assert frames[-1]["end"] is True
    joiner.hang_up()


async def test_a_reader_without_credit_stops_its_own_stream_only(stranger: Stranger, client: EventClient) -> None:
    event_id = ids.text(ids.new_id())
    data = {"name": "slow", "to": 1_000}
    frame = {"id": 1, "event": "mixed:count", "data": data, "stream": True, "credit": 4, "event_id": event_id}
    await stranger.ask(frame)
    async with client.stream("mixed:count", name="quick", to=300) as stream:
        assert [chunk.data async for chunk in stream] == list(range(300))
    page = await client.request("log:read", stream=f"mixed/{event_id}", kinds=["chunk"], pattern="*")
    assert [chunk["data"] for chunk in page["events"]] == [0, 1, 2, 3]


async def test_who_does_not_read_its_answers_delays_nobody_else(stranger: Stranger, client: EventClient) -> None:
    asks = b"\n".join(b'{"id":%d,"event":"mixed:large","data":{"size":500000}}' % number for number in range(1, 100))
    await stranger.ask(asks)
    answers = await asyncio.gather(*(client.request("mixed:turns", number=number) for number in range(500)))
    assert answers == list(range(500))


# ── garbage ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\xff\xfe\x00", "invalid_frame"),
        (b"{", "invalid_frame"),
        (b"[1,2]", "invalid_frame"),
        (b'"text"', "invalid_frame"),
        (b'{"id":1}', "invalid_frame"),
        (b'{"id":{},"event":"system:health"}', "invalid_frame"),
        (b'{"id":1,"event":5}', "invalid_frame"),
        (b'{"id":1,"event":"system:health","timeout":-1}', "invalid_frame"),
        (b'{"id":1,"event":"system:health","event_id":"no id"}', "invalid_frame"),
        (b"[" * 100_000, "invalid_frame"),
        (b'{"id":1,"event":"counter:add","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_frame"),
        (b'{"id":1,"event":"' + b"x" * 2_000_000 + b'"}', "payload_too_large"),
        (b'{"id":1,"event":"counter:add","data":[]}', "validation_error"),
        (b'{"id":1,"event":"counter:add","data":{"name":5}}', "validation_error"),
        (b'{"id":1,"event":"counter:add","data":{"name":"a","nmae":"b"}}', "validation_error"),
        (b'{"id":1,"event":"counter:ad","data":{}}', "unknown_event"),
        (b'{"id":1,"event":"mixed:none"}', "no_answer"),
        (b'{"id":1,"event":"mixed:raises"}', "internal_error"),
        (b'{"id":1,"resume":"nowhere@x"}', "invalid_frame"),
        (b'{"id":1,"resume":"nowhere@1"}', "not_found"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:24].decode(errors="replace"),
)
async def test_what_can_not_be_served_is_answered_and_the_connection_goes_on(
    stranger: Stranger, line: bytes, code: str
) -> None:
    answer = await stranger.ask(line)
    assert answer["error"]["code"] == code, answer
    assert (await stranger.ask(b'{"id":2,"event":"mixed:inline","data":{"number":3}}')) == {
        "id": 2,
        "ok": True,
        "data": 3,
    }


async def test_an_answer_that_does_not_fit_a_frame_is_an_error(client: EventClient) -> None:
    with pytest.raises(PayloadTooLargeError):
        await client.request("mixed:large", size=2_000_000)


async def test_a_daemon_may_open_as_many_connections_as_its_doors_let_in(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        async with DaemonProcess(tmp_path / "home") as daemon:
            assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[0] == min(FILES, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
