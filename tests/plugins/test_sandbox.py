"""Sandboxes: no path, link, race or child process leads out of one."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.config import Config, PermissionSection, ProfileSection
from ksi.core.errors import KSIError, NotFoundError, PermissionDeniedError, UnavailableError, ValidationError
from ksi.core.home import Home
from ksi.core.ports import Tokens
from ksi.plugins.permission import Permission
from ksi.plugins.sandbox.beneath import Beneath, components
from ksi.plugins.sandbox.command import OUTPUT_BYTES_MAX
from ksi.plugins.sandbox.confine import confinement
from ksi.plugins.sandbox.plugin import Sandbox
from ksi.plugins.state import State
from ksi.testing.daemon_process import DaemonProcess
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer
from tests.plugins.running import Daemon, running

ADA = "agent:ada"
SECRET = "the owner's alone"
confined = pytest.mark.skipif(
    confinement() != "full", reason="this kernel's Landlock does not confine a command wholly"
)
BOXED = ProfileSection(allow=("sandbox:*", "permission:show", "state:*"), deny=("state:set",))

ASKING = """
import json, os, sys
from ksi import KSIError, SyncEventClient
if "nobody" in sys.argv:
    os.environ.pop("KSI_TOKEN")
def ask(event, **fields):
    try:
        return client.request(event, **fields)
    except KSIError as error:
        return error.code
with SyncEventClient() as client:
    said = [ask("permission:show"), ask("state:set", key="a", value=1), ask("sandbox:read", agent="ben", path="x")]
said[0] = said[0] if isinstance(said[0], str) else said[0]["principal"]
with open("said.json.new", "w") as file:
    json.dump(said, file)
os.rename("said.json.new", "said.json")
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.data.mkdir()
    home.token_file.write_text(SECRET)
    return home


@pytest.fixture
async def daemon(home: Home) -> AsyncIterator[Daemon]:
    """Kernel, socket and tokens, in this process: which commands descend from."""
    tokens = TokenStore(home.tokens)
    permission = PermissionSection(
        profiles={"boxed": BOXED, "open": ProfileSection(allow=("*",))}, principals={ADA: "boxed"}
    )
    config = Config(home=home, permission=permission)
    async with (
        running(Permission, State, Sandbox, services={Config: config, Tokens: tokens}) as daemon,
        UnixServer(daemon.kernel.router, home.socket, tokens=tokens),
    ):
        yield daemon


@pytest.fixture
def inside(home: Home) -> Path:
    directory = home.sandboxes / "ada"
    directory.mkdir(parents=True)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def run(daemon: Daemon, *command: str, **more: Any) -> Any:
    return await daemon.ask("sandbox:exec", principal=ADA, command=list(command), **more)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_what_an_agent_writes_it_reads_lists_and_deletes(daemon: Daemon) -> None:
    assert await daemon.ask("sandbox:write", principal=ADA, path="a/b.txt", text="hällo") == {
        "path": "a/b.txt",
        "bytes": 6,
    }
    read = await daemon.ask("sandbox:read", principal=ADA, path="a/b.txt", offset=3)
    assert (read["text"], read["bytes"], read["offset"]) == ("llo", 6, 3)
    half = await daemon.ask("sandbox:read", principal=ADA, path="a/b.txt", offset=2)
    assert (half["text"], half["data"]) == (None, "pGxsbw==")
    assert (await daemon.ask("sandbox:list", agent="ada", path="a"))["items"] == [
        {"name": "b.txt", "kind": "file", "bytes": 6}
    ]
    assert (await daemon.ask("sandbox:delete", principal=ADA, path="a"))["deleted"]
    assert not (await daemon.ask("sandbox:delete", principal=ADA, path="a/b.txt"))["deleted"]
    assert (await daemon.ask("sandbox:list", principal=ADA))["items"] == []
    facts = [event.name async for event in daemon.log.read_stream("sandbox/ada")]
    assert facts == ["sandbox:was_written", "sandbox:was_deleted"]


async def test_a_long_directory_is_listed_in_pages(daemon: Daemon, inside: Path) -> None:
    for number in range(5):
        (inside / str(number)).touch()
    first = await daemon.ask("sandbox:list", principal=ADA, limit=3)
    rest = await daemon.ask("sandbox:list", principal=ADA, limit=3, after=first["next"])
    assert ([item["name"] for item in first["items"] + rest["items"]], rest["next"]) == (list("01234"), None)


async def test_an_agent_has_only_its_own_sandbox_and_others_say_whose(daemon: Daemon, home: Home) -> None:
    with pytest.raises(PermissionDeniedError):
        await daemon.ask("sandbox:read", principal=ADA, agent="ben", path="x")
    with pytest.raises(ValidationError):
        await daemon.ask("sandbox:read", path="x")
    for name in ("..", ".", "ä", ".x"):
        await daemon.ask("sandbox:write", agent=name, path="x", text=name)
        assert (await daemon.ask("sandbox:read", principal=f"agent:{name}", path="x"))["text"] == name
    assert all(directory.name.startswith("%") for directory in home.sandboxes.iterdir())


@pytest.mark.parametrize(
    "path", ["..", "../ada/x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "a\0b", "", "a/" * 40]
)
@pytest.mark.parametrize("verb", ["read", "write", "delete", "list"])
async def test_a_path_that_could_lead_out_is_refused(daemon: Daemon, inside: Path, verb: str, path: str) -> None:
    text = {"text": "x"} if verb == "write" else {}
    with pytest.raises(ValidationError):
        await daemon.ask(f"sandbox:{verb}", principal=ADA, path=path, **text)
    assert names(inside) == []


@given(st.text(alphabet="./a\0é", max_size=12))
def test_what_is_let_through_is_made_of_names(path: str) -> None:
    try:
        parts = components(path)
    except ValidationError:
        return
    assert not {"", ".", ".."} & set(parts)
    assert "/".join(parts) in {path.removesuffix("/"), ""}


@pytest.fixture
def traps(inside: Path, home: Home) -> Iterator[Path]:
    (inside / "link").symlink_to(home.token_file)
    (inside / "up").symlink_to(home.path)
    (inside / "loop").symlink_to("loop")
    (inside / "hard").hardlink_to(home.token_file)
    os.mkfifo(inside / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(inside / "socket"))
        yield inside


@pytest.mark.parametrize("path", ["link", "up/token", "loop", "hard", "pipe", "socket", "link/x"])
async def test_neither_links_nor_what_is_no_file_are_read(daemon: Daemon, traps: Path, path: str) -> None:
    with pytest.raises(KSIError) as caught:
        await daemon.ask("sandbox:read", principal=ADA, path=path)
    assert caught.value.code in {"validation_error", "unavailable"}


async def test_links_are_replaced_and_removed_themselves_not_what_they_point_to(
    daemon: Daemon, traps: Path, home: Home
) -> None:
    for name in ("link", "hard"):
        await daemon.ask("sandbox:write", principal=ADA, path=name, text="mine")
        assert (traps / name).read_text() == "mine"
    with pytest.raises(ValidationError):
        await daemon.ask("sandbox:write", principal=ADA, path="up/token", text="x")
    assert (await daemon.ask("sandbox:delete", principal=ADA, path="up"))["deleted"]
    (traps / "deep").mkdir()
    (traps / "deep" / "up").symlink_to(home.path)
    assert (await daemon.ask("sandbox:delete", principal=ADA, path="deep"))["deleted"]
    assert home.token_file.read_text() == SECRET


def test_who_swaps_a_directory_for_a_link_meanwhile_wins_nothing(home: Home, inside: Path) -> None:
    outside = home.path / "outside"
    outside.mkdir()
    (outside / "file").write_text(SECRET)
    (inside / "real").mkdir()
    (inside / "real" / "file").write_text("mine")
    (inside / "trap").symlink_to(outside)
    stop = Event()

    def swap() -> None:
        while not stop.is_set():
            for first, second in (("real", "now"), ("now", "real"), ("trap", "now"), ("now", "trap")):
                try:
                    (inside / first).rename(inside / second)
                except OSError:  # a write has made a directory of that name
                    shutil.rmtree(inside / "now", ignore_errors=True)

    swapping = Thread(target=swap)
    swapping.start()
    beneath, seen = Beneath(inside), set()
    try:
        for number in range(1500):
            try:
                seen.add(beneath.read("now/file", 0, 100)[0])
                if number % 10 == 0:
                    beneath.write("now/new", b"x")
                    beneath.delete("now/new")
            except (NotFoundError, UnavailableError, ValidationError):
                continue
    finally:
        stop.set()
        swapping.join()
    assert seen <= {b"mine"}
    assert [file.name for file in outside.iterdir()] == ["file"]


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@confined
async def test_a_command_reaches_its_directory_and_nothing_else(daemon: Daemon, home: Home, inside: Path) -> None:
    (inside / "link").symlink_to(home.token_file)
    script = f"""
cat && echo more > new && cat new
cat {home.token_file}; cat link; echo x > {home.path}/x; ln {home.token_file} stolen; ls {home.path}
kill -0 {os.getpid()} && echo killed
cat /proc/{os.getpid()}/environ; cat /etc/shadow
python -c "import socket; socket.socket()" || echo no network
python -c "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)" || echo no datagrams
env
"""
    done = await run(daemon, "sh", "-c", script, stdin="given ")
    lines = done["stdout"].splitlines()
    assert lines[:3] == ["given more", "no network", "no datagrams"]
    assert {line.partition("=")[0] for line in lines[3:]} - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH", "HOME", "TMPDIR", "LANG", "KSI_HOME", "KSI_TOKEN",
    }  # fmt: skip
    assert SECRET not in done["stdout"] + done["stderr"]
    assert names(inside) == ["link", "new"]
    assert not (home.path / "x").exists()


@confined
async def test_a_command_connects_to_the_daemon_only_as_its_agent_and_to_nobody_else(
    daemon: Daemon, home: Home, inside: Path
) -> None:
    other = home.path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(other))
        listening.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(other)!r})"
        refused = await run(daemon, "python", "-c", connect)
    assert "PermissionError" in refused["stderr"]
    assert (await run(daemon, "python", "-c", ASKING))["stderr"] == ""
    assert json.loads((inside / "said.json").read_text()) == [ADA, "permission_denied", "permission_denied"]
    assert (await run(daemon, "python", "-c", ASKING, "nobody"))["stderr"] == ""
    assert json.loads((inside / "said.json").read_text()) == ["unauthorized"] * 3
    assert TokenStore(home.tokens).list() == [], "its token counts as long as the command runs"


@confined
async def test_nothing_of_a_command_is_left_whatever_it_forked(daemon: Daemon, inside: Path) -> None:
    forking = """
import os, time
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writing, str(os.getpid()).encode())
        time.sleep(1000)
    os._exit(0)
os.wait()
print(os.read(reading, 100).decode(), flush=True)
os.kill(os.getpid(), 6)
"""
    done = await run(daemon, "python", "-c", forking)
    assert (done["exit_code"], done["signal"]) == (None, signal.SIGABRT)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done["stdout"]), 0)


@confined
async def test_a_command_ends_at_its_time_and_with_whoever_asked_for_it(daemon: Daemon, inside: Path) -> None:
    waiting = ("sh", "-c", "trap '' TERM; echo here; sleep 1000 & echo $! > pid.new; mv pid.new pid; wait; wait")
    done = await run(daemon, *waiting, timeout=0.5)
    assert (done["timed_out"], done["exit_code"], done["stdout"]) == (True, None, "here\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int((inside / "pid").read_text()), 0)
    assert (await run(daemon, "false"))["exit_code"] == 1
    assert (await run(daemon, "nowhere"))["exit_code"] == 127


@confined
async def test_of_much_output_the_beginning_is_kept_and_the_command_does_not_stand_still(
    daemon: Daemon, inside: Path
) -> None:
    done = await run(daemon, "python", "-c", "print('x' * 3_000_000)")
    assert done["exit_code"] == 0
    assert done["stdout"] == f"{'x' * OUTPUT_BYTES_MAX}… (cut: 3000001 bytes in all)"


@confined
async def test_limits_hold(daemon: Daemon, inside: Path) -> None:
    memory = await run(daemon, "python", "-c", "x = bytearray(3 << 30)")
    assert "MemoryError" in memory["stderr"]
    files = await run(daemon, "python", "-c", "import os; a = [os.dup(0) for _ in range(300)]")
    assert "Too many open files" in files["stderr"]


@confined
async def test_a_command_ends_with_the_daemon_that_is_killed(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path) as daemon, daemon.client(reconnect_timeout=0) as client:
        before = daemon.children()
        asked = asyncio.create_task(client.try_request("sandbox:exec", agent="ada", command=["sh", "-c", "sleep 1000"]))
        async with asyncio.timeout(30):
            while len(started := daemon.children() - before) < 3:  # noqa: ASYNC110  # the keeper, sh, sleep
                await asyncio.sleep(0.01)
        watched = [os.pidfd_open(pid) for pid in started]
        await daemon.kill()
        for process in watched:
            assert await asyncio.to_thread(select.select, [process], [], [], 30) != ([], [], [])
            os.close(process)
        await asked
