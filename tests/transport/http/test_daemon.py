"""HTTP of a real daemon: its start, what stands in its way, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ksi.core.errors import KSIConnectionError
from ksi.testing.daemon_process import DaemonProcess
from tests.transport.http.test_streams import client_of, events

SETTINGS = {"http.port": 0, "limits.stop_timeout": 0.5}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess(tmp_path / "home", Path(__file__).with_name("site.py"), settings=SETTINGS) as daemon:
        yield daemon


async def test_the_token_and_the_address_lie_in_the_home_for_its_owner_only(daemon: DaemonProcess) -> None:
    async with await client_of(daemon) as http:
        answer = await http.post("/v1/events/permission:show", json={})
        assert answer.json()["principal"].startswith("uid:")
    assert daemon.home.token_file.stat().st_mode & 0o777 == 0o600
    await daemon.stop()
    assert not daemon.home.http_file.exists()


async def test_where_the_port_is_taken_the_daemon_runs_without_http_and_says_so(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    port = int((await daemon.http_url()).rpartition(":")[2])
    async with DaemonProcess(tmp_path / "other", settings={"http.port": port}) as other, other.client() as client:
        async with asyncio.timeout(30):
            while "no HTTP" not in other.said():  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.02)
        assert (await client.request("system:health"))["status"] == "healthy"
        assert "Address already in use" in other.home.http_file.read_text()
        assert f"127.0.0.1:{port}: Address already in use" in other.said()


async def test_a_daemon_that_would_listen_to_a_network_in_the_clear_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(KSIConnectionError) as refused:
        async with DaemonProcess(tmp_path, settings={"http.host": "0.0.0.0"}):
            pass
    assert "http.expose" in refused.value.message


async def test_streams_that_are_open_get_their_ends_before_the_daemon_goes(daemon: DaemonProcess) -> None:
    async with (
        await client_of(daemon) as http,
        http.stream("POST", "/v1/stream/probe:held", json={}) as held,
        http.stream("GET", "/v1/subscribe") as followed,
    ):
        heard, seen = events(held), events(followed)
        assert [(await anext(heard)).event, (await anext(seen)).event][0] == "open"
        stopping = asyncio.create_task(daemon.stop())
        assert [event.event async for event in heard][-1] == "failure"
        assert [event.data["code"] async for event in seen if event.event == "failure"] == ["shutting_down"]
        assert await stopping == 0


async def test_what_is_asked_while_the_daemon_starts_is_refused_by_the_system_not_by_silence(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path, settings=SETTINGS) as daemon:
        url = await daemon.http_url()
        await daemon.kill()
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(trust_env=False) as http:
                await http.get(f"{url}/healthz")
        await daemon.start()
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{await daemon.http_url()}/readyz")).status_code == 200
