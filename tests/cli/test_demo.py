"""The demo keeps its claims; on a machine without the model it fetches that first, so this takes a while."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ksi.cli.reach import daemon_pid
from ksi.core.home import Home


@pytest.mark.soak
def test_the_demo_shows_its_beats_and_ends_ok() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ksi.cli", "demo", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    beats = [record["name"] for record in records if "beat" in record]
    assert beats == ["STREAM", "KILL", "AGENTS", "LOG", "REPLAY", "BLAME", "WHAT IF", "BUDGET"]
    (end,) = [record for record in records if record.get("demo")]
    assert end["demo"] == "ok"
    assert end["tokens"] > 0


@pytest.mark.soak
def test_a_demo_that_is_terminated_leaves_no_daemon(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ksi.cli", "demo", "--json"]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        next(line for line in running.stdout if '"beat":1' in line)
        (home,) = tmp_path.glob("ksi-demo-*")
        daemon = daemon_pid(Home(home))
        assert daemon is not None
        process = os.pidfd_open(daemon)
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("ksi-demo-*"))
    assert select.select([process], [], [], 0)[0], "the daemon has ended"
    os.close(process)
