"""The demo keeps its claims; on a machine without the model it fetches that first, so this takes a while."""

import subprocess
import sys

import msgspec
import pytest


@pytest.mark.soak
def test_the_demo_shows_four_beats_and_ends_ok() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ksi.cli.main", "demo", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert [record["name"] for record in records if "beat" in record] == ["STREAM", "KILL", "AGENTS", "LOG"]
    (end,) = [record for record in records if record.get("demo")]
    assert end["demo"] == "ok"
    assert end["tokens"] > 0
