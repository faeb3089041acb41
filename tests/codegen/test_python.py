"""The Python module: mypy takes right calls and refuses wrong ones; the module runs."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from ksi.codegen.catalogue import Catalogue
from ksi.codegen.python import module
from ksi.testing.daemon_process import DaemonProcess
from tests.codegen.built_in import built_in, catalogue_from
from tests.codegen.painting import Painting

USES = """
from events import typed
from ksi.client.client import EventClient
from ksi.client.options import Options


async def right(client: EventClient) -> None:
    ksi = typed(client)
    version: int = (await ksi.request("state:set", key="a", value=1))["version"]
    await ksi.request("state:set", {"key": "a", "value": [1], "expected_version": version})
    bytes_on_disk: int = (await ksi.request("system:health", options=Options(timeout=1)))["log"]["bytes"]
    await ksi.request("agent:send_message", {"agent": "a", "text": str(bytes_on_disk), "from": "b"})
    async with ksi.stream("agent:send_message", agent="a", text="b") as stream:
        async for chunk in stream:
            text: str = chunk.data["text"]
            print(text, chunk.at)
    print(stream.end["usage"]["input_tokens"])


async def wrong(client: EventClient) -> None:
    ksi = typed(client)
    await ksi.request("state:set", kee="a", value=1)  # wrong field
    await ksi.request("state:sett", key="a", value=1)  # wrong event
    await ksi.request("state:set", key=1, value=1)  # wrong type
    await ksi.request("state:set", value=1)  # missing field
    await ksi.request("state:set", {"key": "a", "value": 1, "other": 1})  # wrong key
    (await ksi.request("state:set", key="a", value=1))["verzion"]  # wrong answer
    ksi.stream("state:set", key="a", value=1)  # no stream
    async for chunk in ksi.stream("agent:send_message", agent="a", text="b"):
        number: int = chunk.data["text"]  # wrong chunk
"""


def mypy(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", "."],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_mypy_takes_right_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    (tmp_path / "events.py").write_text(module(built_in()))
    (tmp_path / "painting.py").write_text(module(catalogue_from(Painting)))
    (tmp_path / "uses.py").write_text(USES)
    wrong = {number for number, line in enumerate(USES.splitlines(), 1) if "#" in line}
    places = {line.partition(": ")[0] for line in mypy(tmp_path).splitlines() if " error: " in line}
    assert places == {f"uses.py:{number}" for number in wrong}


def test_the_module_of_any_plugin_runs(catalogue: Catalogue) -> None:
    made = types.ModuleType("events")
    exec(compile(module(catalogue), "events.py", "exec"), vars(made))
    assert {event.request for event in catalogue.events} <= vars(made).keys()


async def test_a_typed_client_asks_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "described_events.py").write_text(module(built_in()))
    monkeypatch.syspath_prepend(tmp_path)
    import described_events  # type: ignore[import-not-found]  # it was just made

    async with DaemonProcess(tmp_path / "home") as daemon, daemon.client() as client:
        ksi = described_events.typed(client)
        assert (await ksi.request("state:set", key="a", value=1))["version"] == 1
        async with ksi.stream("event:subscribe", after="start") as events:
            assert (await anext(events)).data["name"] == "state:value_was_set"
