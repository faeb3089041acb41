"""The command line itself: what it loads, what it refuses, and how it ends where no daemon is."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import click
import msgspec
import pytest

from ksi.cli.main import SECTIONS, cli, main
from ksi.core.events import NewEvent
from ksi.core.home import Home
from ksi.store.offline import verify_file
from ksi.store.postgres_log import PostgresEventStore
from ksi.store.schema import APPLICATION, STEPS
from ksi.store.sqlite_log import SqliteEventStore
from tests.cli.processes import Cli, on_a_terminal

HEAVY = {"httpx", "pydantic", "rich", "starlette", "structlog", "uvicorn", "uvloop"}


def loaded_by(*command: str) -> set[str]:
    """The top-level names of what a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


def test_help_loads_no_command_and_nothing_heavy() -> None:
    loaded = loaded_by(sys.executable, "-m", "ksi.cli", "--help")
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY | {"asyncio"})
    assert not {name for name in loaded if name.startswith(("ksi.client", "ksi.kernel"))}


def test_send_loads_the_client_and_nothing_heavy(ksi: Cli) -> None:
    loaded = loaded_by(*ksi.command("send", "system:health"))
    assert "ksi.client.client" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert not {name for name in loaded if name.startswith(("ksi.kernel", "ksi.providers"))}


@pytest.mark.parametrize(("command", "module"), [("--help", "click"), ("doctor", "apsw"), ("status", "asyncio")])
def test_ctrl_c_during_the_imports_ends_with_130_and_says_nothing(command: str, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "ksi.cli", command],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ends(["--help"], capsys)
    assert code == 0
    assert all(f"  {name} " in out for commands in SECTIONS.values() for name in commands)


@pytest.mark.parametrize("name", [name for commands in SECTIONS.values() for name in commands])
def test_every_command_of_the_table_is_there(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["send"],
        ["send", "a:b", "c"],
        ["send", "a:b", "--end", "--detach"],
        ["show", "@1", "--at", "@2"],
        ["log", "--after", "yesterday"],
        ["log", "-f", "--until", "@9"],
        ["log", "-f", "--tree"],
        ["log", "--tree", "agent:"],
        ["token", "create", "--principal", ""],
        ["token", "create", "--principal", "a\nb"],
        ["start", "--set", "store.durability"],
        ["restart", "--set", "store.durability=never"],
        ["config", "show", "--home", "/dev/null"],
        ["start", "--home", "/proc/nowhere"],
    ],
)
def test_what_is_wrong_on_the_command_line_ends_with_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ends(["--home", str(tmp_path), *arguments], capsys)
    assert (code, out) == (2, "")
    assert err


def test_without_a_daemon_a_command_ends_with_3_and_says_what_to_do(nowhere: Cli) -> None:
    done = nowhere("runs")
    assert (done.returncode, done.stdout) == (3, "")
    assert "ksi start" in done.stderr


def test_an_answer_that_can_not_be_written_is_an_error_and_no_traceback(nowhere: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            nowhere.command("config", "show"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "ksi: [Errno 28] No space left on device\n"


def test_with_json_an_error_is_an_object_on_stderr(nowhere: Cli) -> None:
    done = nowhere("send", "a:b", "--json")
    assert done.stdout == ""
    assert msgspec.json.decode(done.stderr)["error"]["code"] == "connection_error"


def test_an_option_may_stand_before_the_command_or_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ends(["--json", "--home", str(tmp_path), "config", "show"], capsys)
    behind = ends(["config", "show", "--home", str(tmp_path), "--json"], capsys)
    assert before == behind
    assert msgspec.json.decode(before[1].splitlines()[0]) == {
        "name": "home",
        "value": str(tmp_path),
        "source": "flag home",
    }


def test_config_show_names_the_source_of_each_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    monkeypatch.setenv("KSI_HOME", str(tmp_path))
    (tmp_path / "ksi.toml").write_text("[limits]\nburst = 7\n")
    code, out, _ = ends(["config", "show", "--no-json"], capsys)
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert lines["limits.burst"] == ["7", str(tmp_path / "ksi.toml")]
    assert lines["providers.openai.api_key"][-1] == "OPENAI_API_KEY"
    assert "sesame" not in out


def test_doctor_finds_a_bad_configuration_and_a_path_that_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / ("deep" * 30)
    home.mkdir()
    (home / "ksi.toml").write_text("[stor]\n")
    code, out, _ = ends(["--home", str(home), "doctor", "--json"], capsys)
    levels = {check["name"]: check["level"] for check in map(msgspec.json.decode, out.splitlines())}
    assert code == 1
    assert (levels["config"], levels["socket"], levels["home"]) == ("fail", "fail", "warn")
    assert (levels["python"], levels["sqlite"]) == ("ok", "ok")


def findings(home: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """What the doctor says of a home, by name."""
    _, out, _ = ends(["--home", str(home), "doctor", "--json"], capsys)
    return {line["name"]: line for line in map(msgspec.json.decode, out.splitlines())}


def test_doctor_finds_what_a_killed_daemon_left_and_files_that_others_may_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    home.data.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home.socket))
    home.tokens.touch(0o644)
    home.token_file.touch(0o600)
    found = findings(tmp_path, capsys)
    assert (found["leftovers"]["level"], found["leftovers"]["todo"]) == ("warn", "ksi start  # takes over")
    assert home.socket.name in found["leftovers"]["found"]
    assert (found["secrets"]["level"], found["secrets"]["todo"]) == ("warn", f"chmod 600 {home.tokens}")
    assert found["format"]["found"] == "no log yet"


def test_doctor_finds_what_agents_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    default = '[providers]\ndefault = "openai"\n'
    (tmp_path / "ksi.toml").write_text(f'{default}[mcp.files]\ncommand = ["no-such-program"]\n')
    found = findings(tmp_path, capsys)
    assert (found["servers"]["level"], found["servers"]["found"]) == ("fail", "no program of files (no-such-program)")
    assert (found["providers"]["level"], "OPENAI_API_KEY" in found["providers"]["todo"]) == ("warn", True)
    (tmp_path / "ksi.toml").write_text('[providers]\ndefault = "claude"\nclaude.command = "no-such-program"\n')
    assert findings(tmp_path, capsys)["providers"]["level"] == "warn"


@pytest.mark.parametrize(
    ("pragma", "level"),
    [
        (f"user_version={len(STEPS)}; PRAGMA application_id={APPLICATION}", "ok"),
        (f"user_version={len(STEPS) + 1}; PRAGMA application_id={APPLICATION}", "fail"),
        ("user_version=1; PRAGMA application_id=7", "fail"),
    ],
)
def test_doctor_knows_the_log_of_a_newer_version_and_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pragma: str, level: str
) -> None:
    home = Home(tmp_path)
    home.data.mkdir()
    connection = apsw.Connection(str(home.log))
    connection.execute(f"PRAGMA {pragma}")
    connection.close()
    assert findings(tmp_path, capsys)["format"]["level"] == level
    home.log.write_bytes(b"something else")
    assert findings(tmp_path, capsys)["format"]["level"] == "fail"


def test_doctor_finds_damaged_logs_that_were_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "events.db.damaged-1").touch()
    _, out, _ = ends(["--home", str(tmp_path), "doctor", "--json"], capsys)
    found = {check["name"]: check for check in map(msgspec.json.decode, out.splitlines())}["damaged"]
    assert (found["level"], "events.db.damaged-1" in found["todo"]) == ("warn", True)


def test_much_is_given_up_only_where_somebody_says_so_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path)
    home.data.mkdir()

    async def fill() -> None:
        async with SqliteEventStore.open(home.log) as store:
            for _ in range(2):
                await store.append("item/1", [NewEvent(name="item:put", data={"n": n}) for n in range(150)])

    asyncio.run(fill())
    give_up = ["--home", str(tmp_path), "store", "accept-loss", "--at", "@150"]
    code, _, said = ends(give_up, capsys)
    assert (code, "150 events behind @150 go" in said, "--yes" in said) == (2, True, True)
    assert verify_file(home.log).head == 300
    shown, said = on_a_terminal(sys.executable, "-m", "ksi.cli", *give_up, typed="y\n")
    assert ("Go on without them?" in said, "@151 to @300 are lost" in shown) == (True, True)
    code, _, _ = ends([*give_up, "--yes"], capsys)
    assert (code, verify_file(home.log).head) == (0, 302)


def test_doctor_looks_at_the_database_that_holds_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    def found(at: str) -> tuple[str, str]:
        monkeypatch.setenv("KSI_STORE__URL", at)
        _, out, _ = ends(["--home", str(tmp_path), "doctor", "--json"], capsys)
        return next(
            (c["level"], c["found"]) for c in map(msgspec.json.decode, out.splitlines()) if c["name"] == "store"
        )

    level, said = found(url)
    assert level == "warn"  # for fsync is off in tests
    assert said.startswith("PostgreSQL 1")
    for wrong in (f"postgresql://ada:sesame@/x?host={tmp_path}", "postgres//ada:sesame@host"):
        level, said = found(wrong)
        assert level == "fail"
        assert "sesame" not in said


def test_a_log_in_a_database_is_verified_without_a_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    async def written() -> None:
        async with PostgresEventStore.open(url) as store:
            await store.append("note/1", [NewEvent(name="note:written", data={})])

    monkeypatch.setenv("KSI_STORE__URL", url)
    code, _, err = ends(["--home", str(tmp_path), "verify"], capsys)
    assert code != 0
    assert "not_found" in err
    asyncio.run(written())
    assert ends(["--home", str(tmp_path), "verify", "--no-json"], capsys)[:2] == (0, "the log is whole up to @1\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ends(["completion", shell], capsys)
    assert code == 0
    assert f"_KSI_COMPLETE={shell}_complete" in out
