"""Schemathesis asks every operation of ``/openapi.json``, rightly and wrongly: nothing comes that is not described."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from ksi.testing.daemon_process import DaemonProcess

HERE = Path(__file__).parent / "fuzzing"
SETTINGS = {"http.port": 0, "providers.default": "script", "providers.script": "There was a lighthouse"}
LEFT_OUT = ("askSystemShutdown", "askStoreBackup", "askPermissionAssign")
"""The first stops the daemon, the second writes files wherever it is told to, the third takes our rights from us."""


async def asked_at_random(home: Path, *options: str) -> None:
    """Let Schemathesis loose on a daemon, then look whether the daemon is there and its log whole."""
    async with DaemonProcess(home, settings=SETTINGS) as daemon, daemon.client() as client:
        url = await daemon.http_url()
        token = daemon.home.token_file.read_text().strip()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            *("--generation-deterministic", "--no-shrink", "--no-color", "--warnings", "off"),  # as a seed, but for all
            *(part for name in LEFT_OUT for part in ("--exclude-operation-id", name)),
            *options,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)},
            cwd=home,
            stdout=PIPE,
            stderr=STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode(errors="replace")
        assert (await client.request("log:verify"))["problems"] == []


@pytest.mark.timeout(400)
async def test_each_operation_answers_as_it_is_described(tmp_path: Path) -> None:
    await asked_at_random(tmp_path, "--phases", "examples,fuzzing", "--max-examples", "1")


@pytest.mark.soak
async def test_each_operation_answers_a_hundred_requests_as_it_is_described(tmp_path: Path) -> None:
    await asked_at_random(tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "100")
