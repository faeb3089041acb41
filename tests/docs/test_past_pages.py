"""The pages of blame and replay hold, with a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Cli
from tests.docs.pages import ROOT, only

REPLAY = ROOT / "docs" / "how-to" / "replay-a-run.md"
BLAME = ROOT / "docs" / "how-to" / "find-what-wrote-it.md"


@pytest.fixture
def ksi(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "home")
    assert cli("start", "--set", "store.durability=normal", "--set", "http.enabled=false").returncode == 0
    yield cli
    cli("stop", "-q")


def test_the_example_of_replay_is_identical_and_diverges_when_it_is_changed_as_the_page_says(
    ksi: Cli, tmp_path: Path
) -> None:
    weather, code = tmp_path / "weather.py", only(REPLAY, "python", "# weather.py")
    weather.write_text(code)
    ksi.records("plugin", "load", str(weather))
    ksi.records("send", "weather:report", "city=Oslo")
    assert ksi.text("replay", "last").startswith("identical: 1 requests, 1 facts, 0 chunks, 1 effects; 0 calls")
    changed = code.replace('data={"degrees": degrees}', 'data={"degrees": degrees + 1}')
    assert changed != code
    weather.write_text(changed)
    said = ksi("replay", "last", "--no-json")
    shown = [line for line in only(REPLAY, "console", "+ {").splitlines() if line[0] in "-+"]
    assert [line.split('"kind"')[1] for line in said.stdout.splitlines()] == [line.split('"kind"')[1] for line in shown]
    assert "[replay_divergence]" in said.stderr


def test_the_program_of_blame_finds_the_request(tmp_path: Path) -> None:
    code = only(BLAME, "python", "TimeTravelDebugger") + "\nimport asyncio\n\nfound = asyncio.run(who_wrote_it())\n"
    names: dict[str, object] = {}
    exec(compile(code, str(BLAME), "exec"), names)
    assert names["found"] == "state:set"
