"""The pages hold: their plugins load, their programs run, their tests pass, no code is missing."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from ksi.core import errors
from ksi.core.errors import KSIError
from ksi.testing.daemon_process import DaemonProcess
from ksi.testing.harness import EventTestHarness
from tests.docs.pages import PAGES, ROOT, blocks, only

HOW_TO = ROOT / "docs" / "how-to"
PLUGINS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
    if "(AsyncPlugin)" in block
]


async def output_of(*command: str, cwd: Path, home: Path | None = None) -> str:
    """What a Python program says; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=cwd,
        env={**os.environ, "KSI_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("plugin", PLUGINS)
async def test_each_plugin_loads_as_pasted(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "pasted.py").write_text(plugin)
    async with EventTestHarness(str(tmp_path / "pasted.py")) as ksi:
        assert [(info.status, info.problem) for info in ksi.kernel.plugins.list_plugins()] == [("running", None)]


@pytest.mark.parametrize(("page", "example", "count"), [("write-a-plugin", "counter", 3), ("projections", "shop", 2)])
async def test_the_tests_of_an_example_pass(page: str, example: str, count: int, tmp_path: Path) -> None:
    for name in (f"{example}.py", f"test_{example}.py"):
        (tmp_path / name).write_text(only(HOW_TO / f"{page}.md", "python", f"# {name}"))
    said = await output_of("-m", "pytest", "-q", "-o", "asyncio_mode=auto", cwd=tmp_path)
    assert f"{count} passed" in said


async def test_the_programs_of_clients_run(tmp_path: Path) -> None:
    programs = [
        block
        for name in ("use-the-client.md", "wire-protocol.md", "branches.md")
        for block in blocks(HOW_TO / name, "python")
    ]
    rehearsed = {"providers.default": "script", "providers.script": "There was a lighthouse"}
    async with DaemonProcess(tmp_path / "home", settings=rehearsed) as daemon:
        said = []
        for program in programs:
            (tmp_path / "program.py").write_text(program)
            said.append(await output_of("program.py", cwd=tmp_path, home=daemon.home.path))
    requests, streamed, subscribed, _, lines, forked = said
    assert "unknown_event" in requests
    assert re.match(r"completion/[\w-]+@2 ", streamed)
    assert "state:value_was_set" in subscribed
    assert '"ok":true' in lines
    assert forked.startswith("red\n[{'entity': 'state/default'")


@pytest.mark.parametrize(("page", "shown"), [("observe", "client\n"), ("route-events", "['orders']\n")])
async def test_a_program_says_what_its_page_is_about(page: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(only(HOW_TO / f"{page}.md", "python", "asyncio.run"))
    async with DaemonProcess(tmp_path / "home") as daemon:
        assert await output_of("program.py", cwd=tmp_path, home=daemon.home.path) == shown


async def test_the_typed_program_runs_with_the_module_that_is_described(tmp_path: Path) -> None:
    rehearsed = {"providers.default": "script", "providers.script": "There was a lighthouse"}
    async with DaemonProcess(tmp_path / "home", settings=rehearsed) as daemon:
        described = ("-m", "ksi.cli", "describe", "python", "-o", "ksi_events.py")
        assert await output_of(*described, cwd=tmp_path, home=daemon.home.path) == ""
        (tmp_path / "program.py").write_text(only(HOW_TO / "describe-the-api.md", "python", "typed("))
        said = await output_of("program.py", cwd=tmp_path, home=daemon.home.path)
    assert said.splitlines() == ["colour 1", "There was a lighthousestop"]


def test_the_page_of_codes_has_each_code_once() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)`", (HOW_TO / "error-codes.md").read_text(), re.MULTILINE)
    known = [
        (kind.code, name)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, KSIError) and kind is not KSIError
    ]
    assert sorted(listed) == sorted(known)


async def test_the_program_of_the_store_runs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(only(HOW_TO / "use-the-store.md", "python", "SqliteEventStore.open"))
    assert (await output_of("program.py", cwd=tmp_path)).splitlines() == [
        "order/1 is at 2",
        "1 order/1 order:placed {'item': 'tea'}",
        "2 order/1 order:paid {'cents': 450}",
        "{'item': 'tea'}",
        "[]",
    ]
