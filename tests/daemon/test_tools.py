"""Processes that the daemon starts are nobody until they say a token of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.testing.daemon_process import DaemonProcess
from tests.cli.processes import Cli

TOOLS = Path(__file__).parent / "tools.py"


async def test_a_tool_is_who_its_token_says_and_nobody_without(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path, TOOLS) as daemon, daemon.client() as client:
        assert await client.request("tools:run") == "unauthorized"
        assert await client.request("tools:run", principal="agent:ada") == "agent:ada"


def test_the_token_of_whoever_started_the_daemon_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksi = Cli(tmp_path)
    monkeypatch.setenv("KSI_TOKEN", ksi("token", "create", "--principal", "agent:starter").stdout.strip())
    assert ksi("start", "--plugin", str(TOOLS)).returncode == 0
    try:
        assert ksi("send", "tools:run").stdout == '"unauthorized"\n'
    finally:
        ksi("stop")
