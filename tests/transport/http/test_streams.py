"""Streams over HTTP: their first word, their end, resume, credit, and who leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from ksi.core import ids
from ksi.testing.daemon_process import DaemonProcess
from ksi.transport.http import outlet
from tests.transport.http.site import Site, serving

NDJSON = {"accept": "application/x-ndjson"}


class Said(NamedTuple):
    """A server-sent event."""

    event: str
    data: Any
    id: str | None


async def events(answer: httpx.Response) -> AsyncIterator[Said]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Said(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
            fields = {}


async def all_events(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> list[Said]:
    async with http.stream(method, path, **options) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream"
        return [event async for event in events(answer)]


# ── from the first word to the end ───────────────────────────────────────────────────────────────────────────────────
async def test_a_stream_tells_its_address_then_its_chunks_with_theirs_then_its_end(http: httpx.AsyncClient) -> None:
    opened, *chunks, end = await all_events(http, "POST", "/v1/stream/probe:count", json={"to": 3})
    stream = opened.data["at"].removesuffix("@0")
    assert opened == Said("open", {"at": f"{stream}@0"}, f"{stream}@0")
    assert chunks == [Said("message", number, f"{stream}@{number}") for number in (1, 2, 3)]
    assert end == Said("end", "counted", None)


async def test_the_address_is_told_before_there_is_anything_else(site: Site, http: httpx.AsyncClient) -> None:
    async with http.stream("POST", "/v1/stream/probe:held", json={}) as answer:
        heard = events(answer)
        opened, first = await anext(heard), await anext(heard)
        assert (opened.event, first.data) == ("open", 1)
        site.probe.gate.set()
        assert [event.event async for event in heard] == ["message", "end"]


async def test_as_lines_of_json_a_stream_has_the_frames_of_the_wire(http: httpx.AsyncClient) -> None:
    async with http.stream("POST", "/v1/stream/probe:count", json={"to": 2}, headers=NDJSON) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        opened, *chunks, end = [json.loads(line) async for line in answer.aiter_lines()]
    stream = opened["at"].removesuffix("@0")
    assert chunks == [{"at": f"{stream}@1", "data": 1}, {"at": f"{stream}@2", "data": 2}]
    assert end == {"end": True, "data": "counted"}


async def test_a_stream_that_is_not_recorded_has_no_addresses(http: httpx.AsyncClient) -> None:
    said = await all_events(http, "POST", "/v1/stream/probe:ticks", json={"to": 2})
    assert said == [Said("message", 0, None), Said("message", 1, None), Said("end", None, None)]


async def test_an_event_that_does_not_stream_has_only_an_end(http: httpx.AsyncClient) -> None:
    (end,) = await all_events(http, "POST", "/v1/stream/state:set", json={"key": "a", "value": 1})
    assert (end.event, end.data["version"]) == ("end", 1)


@pytest.mark.parametrize(
    ("path", "data", "status", "code"),
    [
        ("probe:cuont", {}, 404, "unknown_event"),
        ("probe:count", {"to": "many"}, 400, "validation_error"),
        ("state:set", {"key": 5}, 400, "validation_error"),
    ],
)
async def test_a_stream_that_does_not_begin_is_a_problem_with_its_status(
    http: httpx.AsyncClient, path: str, data: Any, status: int, code: str
) -> None:
    answer = await http.post(f"/v1/stream/{path}", json=data)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_stream_that_fails_on_its_way_ends_with_the_error(site: Site, http: httpx.AsyncClient) -> None:
    async with http.stream("POST", "/v1/stream/probe:held", json={}) as answer:
        heard = events(answer)
        await anext(heard)
        await anext(heard)
        next(iter(site.ksi.kernel.router.running.values())).abort()
        (failure,) = [event async for event in heard]
    assert (failure.event, failure.data["code"]) == ("failure", "cancelled")


async def test_a_silent_stream_shows_that_it_lives(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "HEARTBEAT", 0.02)
    async with http.stream("POST", "/v1/stream/probe:held", json={}) as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(5):
            while await anext(lines) != ":":
                pass


# ── resume ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def address_of_a_count(http: httpx.AsyncClient, to: int = 5) -> str:
    opened, *_ = await all_events(http, "POST", "/v1/stream/probe:count", json={"to": to})
    return str(opened.data["at"]).removesuffix("@0")


@pytest.mark.parametrize(
    ("query", "last"),
    [
        ("?after=2", ""),
        ("?after=COUNT@2", ""),
        ("@2", ""),
        ("@0?after=2", ""),
        ("", "COUNT@2"),
        ("?after=4", "COUNT@2"),
    ],
)
async def test_who_was_cut_off_goes_on_after_the_last_chunk_that_it_saw(
    http: httpx.AsyncClient, query: str, last: str
) -> None:
    stream = await address_of_a_count(http)
    headers = {"last-event-id": last.replace("COUNT", stream)} if last else {}
    said = await all_events(http, "GET", f"/v1/stream/{stream}{query.replace('COUNT', stream)}", headers=headers)
    assert [(event.event, event.id) for event in said[:1]] == [("open", f"{stream}@2")]
    assert [(event.data, event.id) for event in said[1:-1]] == [(n, f"{stream}@{n}") for n in (3, 4, 5)]
    assert said[-1] == Said("end", "counted", None)


async def test_a_resume_is_no_second_run(site: Site, http: httpx.AsyncClient) -> None:
    stream = await address_of_a_count(http)
    site.probe.made.clear()
    for _ in range(3):
        await all_events(http, "GET", f"/v1/stream/{stream}")
    assert site.probe.made == {}


async def test_the_same_key_again_shows_the_same_stream(site: Site, http: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": ids.text(ids.new_id())}
    first = await all_events(http, "POST", "/v1/stream/probe:count", json={"to": 4}, headers=headers)
    site.probe.made.clear()
    again = await all_events(http, "POST", "/v1/stream/probe:count", json={"to": 4}, headers=headers)
    assert (first, site.probe.made) == (again, {})


async def test_a_stream_that_still_runs_is_followed_to_its_end(site: Site, http: httpx.AsyncClient) -> None:
    async with http.stream("POST", "/v1/stream/probe:held", json={}) as answer:
        opened = await anext(events(answer))
        stream = opened.data["at"].removesuffix("@0")
        following = asyncio.create_task(all_events(http, "GET", f"/v1/stream/{stream}"))
        await site.until(lambda: bool(site.ksi.kernel.router.readers))
        site.probe.gate.set()
        said = await following
    assert [event.data for event in said[1:]] == [1, 2, "open"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("probe/nothing", 404, "not_found"),
        (f"probe/{ids.text(ids.new_id())}", 404, "not_found"),
        (f"probe/{ids.text(ids.new_id())}?after=other/1@2", 400, "invalid_frame"),
        ("probe:count", 405, "unsupported"),
    ],
    ids=["a word", "a run that never was", "a position of another stream", "a request's name"],
)
async def test_a_stream_that_is_not_there_is_a_problem(
    http: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    answer = await http.get(f"/v1/stream/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


# ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────────────
async def set_value(http: httpx.AsyncClient, key: str) -> None:
    assert (await http.post("/v1/events/state:set", json={"key": key, "value": 1})).status_code == 200


async def test_a_subscription_shows_what_is_there_then_what_comes(http: httpx.AsyncClient) -> None:
    await set_value(http, "before")
    async with http.stream("GET", "/v1/subscribe?pattern=state:*&after=start") as answer:
        heard = events(answer)
        assert (await anext(heard)).data["data"]["key"] == "before"
        await set_value(http, "after")
        assert (await anext(heard)).data["data"]["key"] == "after"


async def test_a_browser_that_connects_again_goes_on_after_the_last_event(http: httpx.AsyncClient) -> None:
    for key in ("a", "b", "c"):
        await set_value(http, key)
    path = "/v1/subscribe?pattern=state:*&after=start"
    async with http.stream("GET", path) as answer:
        last = (await anext(events(answer))).id
    assert last is not None
    async with http.stream("GET", path, headers={"last-event-id": last}) as answer:
        heard = events(answer)
        assert [(await anext(heard)).data["data"]["key"] for _ in range(2)] == ["b", "c"]


async def test_a_subscription_that_makes_no_sense_is_a_problem(http: httpx.AsyncClient) -> None:
    for query in ("overflow=explode", "kinds=chunk&nmae=x"):
        answer = await http.get(f"/v1/subscribe?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")


# ── who leaves, and who stops reading ────────────────────────────────────────────────────────────────────────────────
class Reader:
    """Somebody who asks for a stream and reads as much as the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, site: Site, event: str, data: dict[str, Any]) -> Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=4 << 10)
        body = msgspec.json.encode(data)
        writer.write(
            f"POST /v1/stream/{event} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {site.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return cls(reader, writer)

    async def read_until(self, part: bytes) -> None:
        async with asyncio.timeout(10):
            while part not in await self._reader.readline():
                pass

    def leave(self) -> None:
        self._writer.transport.abort()


async def test_a_stream_whose_reader_leaves_is_cancelled(site: Site) -> None:
    reader = await Reader.open(site, "probe:held", {"name": "left"})
    await reader.read_until(b"data: 1")
    reader.leave()
    await site.until(lambda: site.probe.ended == ["left"])


async def test_a_reader_that_leaves_before_the_first_word_leaves_nothing_behind(site: Site) -> None:
    reader = await Reader.open(site, "probe:held", {"name": "left"})
    await site.until(site.probe.began.is_set)
    reader.leave()
    await site.until(lambda: site.probe.ended == ["left"] and not site.server.state.tasks)


async def test_a_reader_that_stops_stops_the_work_and_nobody_else(site: Site, http: httpx.AsyncClient) -> None:
    stalled = await Reader.open(site, "probe:count", {"name": "stalled", "to": 100_000, "size": 10_000})
    await stalled.read_until(b"data: ")
    said = await all_events(http, "POST", "/v1/stream/probe:count", json={"name": "quick", "to": 2_000})
    assert len(said) == 2_002
    made = await settled(site, "stalled")
    assert made * 10_000 < 4 << 20, "what the system's buffers hold, and sixteen chunks"
    stalled.leave()
    await site.until(lambda: "stalled" in site.probe.ended)


async def settled(site: Site, name: str) -> int:
    """How much was made, once no more is."""
    made = -1
    while made != site.probe.made[name]:
        made = site.probe.made[name]
        for _ in range(200):
            await asyncio.sleep(0)
    return made


# ── the end of the daemon ────────────────────────────────────────────────────────────────────────────────────────────
async def test_each_stream_gets_its_end_when_the_daemon_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client() as http:
        async with http.stream("POST", "/v1/stream/probe:held", json={}) as answer:
            heard = events(answer)
            await anext(heard)
            async with http.stream("GET", "/v1/subscribe?after=start") as followed:
                stopping = asyncio.create_task(stop(site))
                assert [event.event async for event in heard][-1] == "failure"
                (*_, end) = [event async for event in events(followed)]
                assert (end.event, end.data["code"]) == ("failure", "shutting_down")
                await stopping
        assert (site.server.state.connections, site.server.state.tasks) == (set(), set())


async def stop(site: Site) -> None:
    await site.ksi.kernel.router.drain(0.1)
    await site.server.close(2.0)


async def test_a_stream_is_resumed_after_the_daemon_was_killed(tmp_path: Path) -> None:
    settings = {"http.port": 0}
    plugin = Path(__file__).with_name("site.py")
    async with DaemonProcess(tmp_path, f"{plugin}", settings=settings) as daemon:
        async with await client_of(daemon) as http:
            opened, *_ = await all_events(http, "POST", "/v1/stream/probe:count", json={"to": 5})
            stream = opened.data["at"].removesuffix("@0")
        await daemon.kill()
        await daemon.start()
        async with await client_of(daemon) as http:
            said = await all_events(http, "GET", f"/v1/stream/{stream}?after=3")
        assert [event.data for event in said[1:]] == [4, 5, "counted"]


async def client_of(daemon: DaemonProcess) -> httpx.AsyncClient:
    url = await daemon.http_url()
    token = daemon.home.token_file.read_text().strip()
    return httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=30)
