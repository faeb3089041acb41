"""A daemon that can not do as it is asked: its disk is full, or it does not run on."""

import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.cli.processes import Cli


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Cli, int]]:
    """A home of its own, and the process id of its daemon."""
    cli = Cli(tmp_path / "home")
    pid = int(cli.records("start")[0]["pid"])
    process = os.pidfd_open(pid)
    yield cli, pid
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # as it should be
    finally:
        os.close(process)


def test_a_daemon_whose_disk_is_full_says_so_and_stops(started: tuple[Cli, int]) -> None:
    ksi, pid = started
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    assert ksi("send", "state:set", "key=a", "value=1").returncode == 1
    shown = ksi.text("status")
    assert shown.startswith("read_only  ")
    assert re.search(r"^log .*, READ-ONLY: the log is unavailable: .*Error", shown, re.MULTILINE)
    done = ksi("stop", "--timeout", "20", "--no-json")
    assert (done.returncode, done.stdout) == (0, f"stopped (pid {pid})\n"), done.stderr
    assert "SIGTERM" in done.stderr


def test_commands_do_not_wait_for_ever_for_a_daemon_that_hangs(started: tuple[Cli, int]) -> None:
    ksi, pid = started
    os.kill(pid, signal.SIGSTOP)
    commands = (("stop", "--timeout", "0.5"), ("status",), ("doctor", "--json"))
    running = [
        subprocess.Popen(ksi.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in commands
    ]
    (_, stop_said), (status_shown, status_said), (checks, _) = (process.communicate(timeout=30) for process in running)
    assert [process.returncode for process in running] == [1, 3, 1]
    assert f"kill -9 {pid}" in stop_said
    assert (status_shown, f"(pid {pid}) runs" in status_said) == ("", True)
    found = {check["name"]: check for check in map(msgspec.json.decode, checks.splitlines())}
    assert found["daemon"]["level"] == "fail"
    assert f"kill -9 {pid}" in found["daemon"]["todo"]
    os.kill(pid, signal.SIGCONT)
    assert ksi("stop").returncode == 0


def test_a_start_waits_for_http_and_says_why_there_is_none(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    for port, has_http in ((0, True), (taken.getsockname()[1], False)):
        ksi = Cli(tmp_path / f"{port}")
        done = ksi("start", "--set", f"http.port={port}")
        (health,) = map(msgspec.json.decode, done.stdout.splitlines())
        if has_http:
            socket.create_connection(("127.0.0.1", int(health["http"].rpartition(":")[2]))).close()
        else:
            assert (health["http"], done.returncode) == (None, 0)
            assert "Address already in use" in done.stderr
        (http,) = [check for check in ksi.records("doctor") if check["name"] == "http"]
        assert http["level"] == ("ok" if has_http else "warn")
        assert ksi("stop").returncode == 0
    taken.close()
