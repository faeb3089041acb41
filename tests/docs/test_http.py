"""The lines of the page about HTTP do what it shows."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from ksi.testing.daemon_process import DaemonProcess
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "use-http.md"
SHOWN = "http://127.0.0.1:7474"
SETTINGS = {"http.port": 0, "providers.default": "script", "providers.script": "There was a lighthouse"}


def steps(console: str) -> list[tuple[str, str]]:
    """Each command with what stands below it."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def pattern(shown: str) -> str:
    """What is shown as an expression; … stands for anything."""
    return ".*".join(map(re.escape, shown.strip("\n").split("…")))


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page is about curl")
async def test_each_line_of_curl_says_what_the_page_shows(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path / "home", settings=SETTINGS) as daemon:
        url = await daemon.http_url()
        environment = {
            **os.environ,
            "KSI_HOME": str(daemon.home.path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        for console in blocks(PAGE, "console"):
            for command, shown in steps(console):
                if re.match(r"[A-Z]+=", command):
                    environment |= await assigned(command.replace(SHOWN, url), environment)
                    continue
                said = await output_of(command, environment)
                assert re.match(pattern(shown), said, re.DOTALL), f"{command}\n{said}"


async def assigned(command: str, environment: dict[str, str]) -> dict[str, str]:
    """The variables that ``A=… B=…`` sets."""
    names = re.findall(r"\b([A-Z]+)=", command)
    said = await output_of(f"{command}; printf '%s\\n' {' '.join(f'${name}' for name in names)}", environment)
    return dict(zip(names, said.splitlines(), strict=True))


async def output_of(command: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()
