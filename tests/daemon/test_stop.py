"""Orderly ends, a home that is taken, and a disk that is full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ksi.client.client import EventClient
from ksi.core.errors import CancelledError, KSIConnectionError, KSIError, ShuttingDownError, UnavailableError
from ksi.core.result import Failure, Success
from ksi.testing.daemon_process import DaemonProcess
from tests.daemon.audit import Books
from tests.daemon.conftest import LEDGER, MIXED
from tests.daemon.test_doors import LINE_MAX, Stranger


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon that gives what runs no time when it stops."""
    async with DaemonProcess(tmp_path / "home", LEDGER, MIXED, settings={"limits.stop_timeout": 0.2}) as daemon:
        yield daemon


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon that gives what runs more time than anybody waits."""
    async with DaemonProcess(tmp_path / "home", LEDGER, MIXED, settings={"limits.stop_timeout": 3_600}) as daemon:
        yield daemon


async def opened(daemon: DaemonProcess, event: str, **data: Any) -> Stranger:
    """Somebody who reads a stream and has seen its first chunk."""
    reader = Stranger(*await asyncio.open_unix_connection(daemon.home.socket, limit=LINE_MAX))
    await reader.ask({"id": 1, "event": event, "data": data, "stream": True})
    return reader


async def test_a_stream_that_does_not_end_gets_its_end_frame_when_the_daemon_stops(impatient: DaemonProcess) -> None:
    reader = await opened(impatient, "mixed:endless", name="a")
    assert await impatient.stop() == 0
    end = await reader.receive()
    assert (end["end"], end["error"]["code"]) == (True, CancelledError.code)
    reader.hang_up()
    books = await Books.of(impatient.home)
    books.check_whole()


async def test_a_subscription_holds_no_stop_back_and_gets_its_end_frame(patient: DaemonProcess) -> None:
    async with patient.client() as client:
        await client.request("counter:add", name="a")
    reader = await opened(patient, "event:subscribe", after="start")
    assert await patient.stop() == 0
    end = await reader.receive()
    assert end["end"] is True
    reader.hang_up()


async def test_a_command_under_way_ends_with_all_that_it_awaits_and_new_ones_are_refused(
    patient: DaemonProcess,
) -> None:
    async with patient.client() as client:
        waiting = asyncio.create_task(client.request("mixed:wait", name="a"))
        await client.request("system:shutdown")
        while isinstance(refused := await client.try_request("counter:add", name="a"), Success):
            pass  # the drain begins once the shutdown is on disk, a little after its answer
        assert isinstance(refused, Failure)
        assert isinstance(refused.error, ShuttingDownError)
        await client.request("mixed:open")
        assert await waiting == "a"
    assert await patient.ended() == 0
    books = await Books.of(patient.home)
    books.check_whole()
    assert [fact.data["value"] for fact in books.facts if fact.name == "state:value_was_set"] == ["a"]


async def test_the_log_is_left_settled_and_the_socket_gone(daemon: DaemonProcess) -> None:
    async with daemon.client() as client:
        await asyncio.gather(*(client.request("counter:add", name="a") for _ in range(200)))
    assert await daemon.stop() == 0
    assert not daemon.home.socket.exists()
    assert not daemon.home.pid_file.exists()
    assert not (daemon.home.data / "events.db-wal").exists()
    (await Books.of(daemon.home)).check_whole()


async def test_a_second_daemon_on_the_same_home_is_refused_and_told_who_has_it(daemon: DaemonProcess) -> None:
    second = DaemonProcess(daemon.home.path, LEDGER)
    await second.spawn()
    assert await second.ended() == 1
    (refusal,) = [line for line in second.said().splitlines() if line.startswith("ksi: log_locked")]
    assert f"pid {daemon.pid}," in refusal
    async with daemon.client() as client:
        assert await client.request("counter:add", name="a") == 1


async def test_a_home_whose_path_is_too_long_for_a_socket_is_refused_clearly(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / ("x" * 100))
    with pytest.raises(KSIConnectionError, match="choose a shorter --home"):
        await daemon.start()


# ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_on_a_full_disk_commands_are_unavailable_queries_go_on_and_room_ends_it(daemon: DaemonProcess) -> None:
    async with daemon.client() as client:
        done = await add_until(client, UnavailableError, daemon)
        assert (await client.request("system:health"))["log"]["read_only"] is True
        assert await client.request("counter:get", name="a") == done
        async with asyncio.timeout(30):
            while isinstance(await client.try_request("counter:add", name="a"), Failure):
                pass  # the disk is tried once a second
        assert await client.request("counter:add", name="a") == done + 2
        assert (await client.request("log:verify"))["problems"] == []
    assert await daemon.stop() == 0
    (await Books.of(daemon.home)).check_counters()


async def add_until(client: EventClient, kind: type[KSIError], daemon: DaemonProcess) -> int:
    """Fill the disk; how many commands it took."""
    done = 0
    with daemon.full_disk(room=200_000):
        while True:
            results = await asyncio.gather(*(client.try_request("counter:add", name="a") for _ in range(50)))
            done += sum(isinstance(result, Success) for result in results)
            errors = [result.error for result in results if isinstance(result, Failure)]
            if errors:
                assert {type(error) for error in errors} == {kind}
                return done
