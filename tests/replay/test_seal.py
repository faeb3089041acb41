"""The seal of a replay: nothing gets out of it, whoever tries and by whatever way, and who tried is named."""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksi.client.sync import SyncEventClient
from ksi.core.errors import ReplayEscapeError
from ksi.replay import seccomp
from ksi.replay.seal import root_of
from tests.cli.processes import Cli
from tests.replay.escapes import Escapes

HERE = Path(__file__).parent
WAYS = [
    name
    for name, method in inspect.getmembers(Escapes, inspect.isfunction)
    if list(inspect.signature(method).parameters) == ["self", "port", "path"]
]
SHORT = {
    "python_connects",
    "ctypes_connects",
    "uvloop_connects",
    "c_library_spawns",
    "apsw_writes",
    "python_forks",
    "python_writes",
}
NATIVE = ("ctypes", "uvloop", "apsw", "c_library")
"""Ways past the interpreter: only a filter of system calls sees them."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncEventClient]:
    cli = Cli(tmp_path_factory.mktemp("seal") / "home")
    started = cli("start", "--plugin", str(HERE / "escapes.py"), "--set", "store.durability=normal")
    assert started.returncode == 0, started.stderr
    with SyncEventClient(home=cli.home) as client:
        yield client
    cli("stop", "-q")


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Where somebody listens; ``accept`` raises where nobody came."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        yield listening


def came(door: socket.socket) -> int:
    """How many connections there were since the last time."""
    count = 0
    while True:
        try:
            door.accept()[0].close()
        except TimeoutError:
            return count
        count += 1


@pytest.mark.parametrize("how", [pytest.param(way, marks=[] if way in SHORT else pytest.mark.soak) for way in WAYS])
def test_no_way_leads_out_and_who_took_it_is_named(
    how: str, client: SyncEventClient, door: socket.socket, tmp_path: Path
) -> None:
    if how.startswith(NATIVE) and not seccomp.is_here():
        pytest.skip("this system has no filter of system calls")
    path = tmp_path / "written"
    client.request("escapes:try", how=how, port=door.getsockname()[1], path=str(path))
    acted = came(door), path.exists()
    assert acted == (int("connects" in how), not how.endswith(("connects", "removes"))), "it does act when it is live"
    path.unlink(missing_ok=True)
    with pytest.raises(ReplayEscapeError) as caught:
        client.request("timetravel:replay", run="last")
    assert caught.value.plugin == "escapes"
    assert ("native" in caught.value.action) == how.startswith(NATIVE), "what Python does is named as it is"
    assert (came(door), path.exists()) == (0, False)


def test_a_run_that_does_not_try_is_identical(client: SyncEventClient) -> None:
    client.request("escapes:nothing")
    found = client.request("timetravel:replay", run="last")
    assert (found["requests"], found["calls"]) == (1, 0)
    assert found["seal"] == ("audit hook and system calls" if seccomp.is_here() else "audit hook")


def test_a_plugin_that_acts_at_its_start_keeps_only_its_own_runs_from_being_repeated(client: SyncEventClient) -> None:
    client.request("eager:do")
    with pytest.raises(ReplayEscapeError) as caught:
        client.request("timetravel:replay", run="last")
    assert (caught.value.plugin, caught.value.action.split()[0]) == ("eager", "socket.bind")
    client.request("escapes:nothing")
    assert client.request("timetravel:replay", run="last")["requests"] == 1


def test_a_handler_that_sleeps_for_a_day_is_repeated_at_once(client: SyncEventClient, tmp_path: Path) -> None:
    seconds = tmp_path / "seconds"
    seconds.write_text("0.01")
    client.request("escapes:sleep", path=str(seconds))
    seconds.write_text("86400")
    assert client.request("timetravel:replay", run="last")["requests"] == 1


@pytest.mark.parametrize(
    ("module", "root"),
    [
        ("ksi.plugins.completion.plugin", "ksi.plugins.completion"),
        ("ksi_plugins.shop_ab12__g1.prices", "ksi_plugins.shop_ab12__g1"),
        ("acme.shop.prices", "acme"),
    ],
)
def test_the_modules_of_a_plugin_have_one_root(module: str, root: str) -> None:
    assert root_of(module) == root


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_the_filter_is_a_program_that_the_kernel_takes(machine: seccomp.Machine) -> None:
    program = seccomp.filter_of(machine, 1)
    assert len(program) < 4096
    assert program[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)
    for place, (code, yes, no, _) in enumerate(program):
        assert code == seccomp.RETURN or place + 1 + max(yes, no) < len(program)
    refused = machine.refused
    assert len(set(refused)) == len(refused)


HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))


@pytest.mark.skipif(not all(map(Path.exists, HEADERS)), reason="the headers of the kernel are not here")
def test_both_machines_refuse_the_same_calls_by_the_kernels_own_numbers() -> None:
    x86_64, generic = (
        {int(number): name for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read_text())}
        for file in HEADERS
    )
    here, there = seccomp.MACHINES["x86_64"], seccomp.MACHINES["aarch64"]
    known = [number for number in there.refused if number in generic]
    assert {generic[number] for number in known} <= {x86_64.get(number, "") for number in here.refused}
    assert (x86_64[here.clone], x86_64[here.socket], x86_64[here.sendto]) == ("clone", "socket", "sendto")
    assert (generic[there.clone], generic[there.socket], generic[there.sendto]) == ("clone", "socket", "sendto")
