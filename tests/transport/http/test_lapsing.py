"""Streams and subscriptions end with the token that they were asked for with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from ksi.testing.loop import ManualClock
from ksi.transport import lapsing
from tests.transport.http.site import Site, serving
from tests.transport.http.test_streams import events
from tests.transport.http.test_websocket import Socket, opened

STREAMS = {"stream": ("POST", "/v1/stream/probe:held"), "subscription": ("GET", "/v1/subscribe?after=end")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapsing, "CHECK_EVERY", 0.01)


def client_of(site: Site, token: str) -> httpx.AsyncClient:
    return site.client(headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("what", STREAMS)
async def test_a_stream_ends_when_its_token_is_revoked_and_says_so(site: Site, what: str) -> None:
    token = site.tokens.create("agent:ada")
    method, path = STREAMS[what]
    async with client_of(site, token) as http, http.stream(method, path, json={} if method == "POST" else None) as said:
        heard = events(said)
        await anext(heard)
        site.tokens.revoke(site.tokens.verify(token).token_id)
        *_, last = [event async for event in heard]
    assert (last.event, last.data["code"]) == ("failure", "unauthorized")
    await site.until(lambda: not site.server.state.tasks)


async def test_a_stream_ends_when_its_token_expires_and_others_go_on(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as site:
        token = site.tokens.create("agent:ada", ttl=60)
        async with (
            client_of(site, token) as mine,
            site.client() as other,
            mine.stream("POST", "/v1/stream/probe:held", json={}) as said,
            other.stream("POST", "/v1/stream/probe:held", json={}) as other_said,
        ):
            heard, other_heard = events(said), events(other_said)
            for _ in range(2):
                await anext(heard)
                await anext(other_heard)
            clock.advance(61)
            assert [event.data["code"] async for event in heard] == ["unauthorized"]
            site.probe.gate.set()
            assert [event.data async for event in other_heard] == [2, "open"]


async def test_who_has_a_new_token_goes_on_with_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, disconnect_grace=10) as site:
        token = site.tokens.create("agent:ada")
        async with client_of(site, token) as http, http.stream("POST", "/v1/stream/probe:held", json={}) as said:
            heard = events(said)
            address = [await anext(heard), await anext(heard)][-1].id
            site.tokens.revoke(site.tokens.verify(token).token_id)
            assert [event.event async for event in heard] == ["failure"]
        async with (
            client_of(site, site.tokens.create("agent:ada")) as http,
            http.stream("GET", f"/v1/stream/{address}") as said,
        ):
            heard = events(said)
            await anext(heard)
            site.probe.gate.set()
            assert [event.data async for event in heard] == [2, "open"]


async def test_a_socket_that_says_nothing_has_to_leave_and_its_streams_end(site: Site) -> None:
    token = site.tokens.create("agent:ada")
    async with opened(site, token=token) as connection:
        socket = Socket(connection)
        await socket.send({"id": 1, "event": "probe:held", "stream": True}, {"id": 2, "event": "probe:wait"})
        assert (await socket.receive())["data"] == 1
        site.tokens.revoke(site.tokens.verify(token).token_id)
        frames = [await socket.receive() for _ in range(2)]
        assert [(frame["id"], frame["error"]["code"]) for frame in frames] == [
            (None, "unauthorized"),
            (1, "unauthorized"),
        ]
        site.probe.gate.set()
        assert (await socket.receive())["data"] == "open", "what was asked for before has its answer"
        await socket.closed()


async def test_nothing_is_looked_at_where_nobody_streams(site: Site) -> None:
    tokens = site.server._sockets._common.tokens
    assert tokens is not None
    async with site.client() as http, http.stream("POST", "/v1/stream/probe:held", json={}):
        assert tokens._timer is not None
    await asyncio.wait(site.server.state.tasks or {asyncio.ensure_future(asyncio.sleep(0))})
    assert not tokens._watched
    assert not tokens._timer
