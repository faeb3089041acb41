"""A whole daemon on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import KSIConnectionError
from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.postgres import PostgresServer


async def test_a_daemon_that_is_killed_goes_on_with_what_is_in_the_database(tmp_path: Path, url: str) -> None:
    on_postgres = {"store.url": url}
    async with DaemonProcess(tmp_path / "home", settings=on_postgres) as daemon, daemon.client() as client:
        for value in range(20):
            await client.request("state:set", key="k", value=value)
        await daemon.kill()
        await daemon.start()
        assert (await client.request("state:get", key="k"))["value"] == 19
        health = await client.request("system:health")
        assert (health["log"]["backend"], health["log"]["read_only"]) == ("postgresql", False)
        assert health["log"]["bytes"] > 0
        assert (await client.request("log:verify"))["problems"] == []
        assert await daemon.stop() == 0
    assert not (tmp_path / "home" / "data" / "events.db").exists()


async def test_a_second_daemon_on_the_database_is_refused_with_the_name_of_the_first(tmp_path: Path, url: str) -> None:
    on_postgres = {"store.url": url}
    async with DaemonProcess(tmp_path / "one", settings=on_postgres) as daemon:
        with pytest.raises(KSIConnectionError, match=f"log_locked: .* pid {daemon.pid} "):
            await DaemonProcess(tmp_path / "two", settings=on_postgres).start()


async def test_a_database_that_is_restarted_costs_a_daemon_nothing(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    on_postgres = {"store.url": own_postgres.url("postgres")}
    async with DaemonProcess(tmp_path / "home", settings=on_postgres) as daemon, daemon.client() as client:
        await client.request("state:set", key="k", value=1)
        own_postgres.stop()
        own_postgres.start()
        await client.request("state:set", key="k", value=2)
        assert (await client.request("state:get", key="k"))["value"] == 2


async def test_without_a_server_the_daemon_does_not_start_and_says_so(tmp_path: Path) -> None:
    nowhere = {"store.url": f"postgresql://ksi:secret@/ksi?host={tmp_path}"}
    daemon = DaemonProcess(tmp_path / "home", settings=nowhere)
    with pytest.raises(KSIConnectionError, match="unavailable: the log"):
        await daemon.start()
    assert "secret" not in daemon.said()
