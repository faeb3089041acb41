"""The scripts of the page about KSI as a provider, with the packages that they import."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ksi.testing.daemon_process import DaemonProcess
from ksi.transport.tokens import TokenStore
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "use-it-as-a-provider.md"
SETTINGS = {"http.port": 0, "providers.default": "script", "providers.script": "It is deep"}


async def test_the_scripts_are_answered(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path / "home", settings=SETTINGS) as daemon, daemon.client() as client:
        token = TokenStore(daemon.home.tokens).create(f"uid:{os.getuid()}")
        environment = {**os.environ, "KSI_URL": await daemon.http_url(), "KSI_TOKEN": token}
        await client.request("agent:spawn", agent="ada", system="You know the sea.")
        ask, messages = [await said(script, environment) for script in blocks(PAGE, "python")]
    models, streamed, turn = ask
    assert "agent:ada" in models
    assert (streamed, turn, messages) == ("It is deep", "It is deep", ["It is deep"])


async def said(script: str, environment: dict[str, str]) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()
