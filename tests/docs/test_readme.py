"""The README holds: its plugin works as pasted, its client runs, and wrong plugins are told what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ksi.cli.schema import schema_lines
from tests.docs.pages import README, commands, only

KSI = Path(sys.executable).parent / "ksi"
PLUGIN = only(README, "python", "class GreeterPlugin")
PROGRAM = only(README, "python", "EventClient()")
LINES = commands(only(README, "console", "GreeterPlugin"))
OTHER = PLUGIN.replace("greeter", "other")
CYCLE = """
from ksi import AsyncPlugin

class Hen: ...
class Egg: ...

class HenPlugin(AsyncPlugin):
    name, requires, provides = "hen", (Egg,), (Hen,)

class EggPlugin(AsyncPlugin):
    name, requires, provides = "egg", (Hen,), (Egg,)
"""


class Folder:
    """A folder of somebody's work, in which ``ksi`` is typed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / "home"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The words as typed; ``ksi`` and ``python`` are those of this environment."""
        program = {"ksi": str(KSI), "python": sys.executable}[words[0]]
        return subprocess.run(
            [program, *words[1:]],
            cwd=self.path,
            env={**os.environ, "KSI_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def write(self, name: str, text: str) -> str:
        (self.path / name).write_text(text)
        return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """It holds the README's plugin, and the README's first line has been typed."""
    folder = Folder(tmp_path_factory.mktemp("readme"))
    folder.write("greeter.py", PLUGIN)
    try:
        started = folder.run(*LINES[0])
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        folder.run("ksi", "stop", "-q")


def test_the_lines_below_the_plugin_do_what_they_say(folder: Folder) -> None:
    said = {}
    for words in LINES[1:]:
        done = folder.run(*words)
        assert done.returncode == 0, done.stderr
        said[words[1]] = done.stdout
    assert msgspec.json.decode(said["send"]) == "Hello, Ada!"
    assert msgspec.json.decode(said["show"])["state"]["latest"] == {"who": "Ada"}
    assert [*schema_lines(msgspec.json.decode(said["events"])["request"])] == ["who  string  required"]


def test_a_misspelt_field_is_refused_before_the_handler_runs(folder: Folder) -> None:
    refused = folder.run("ksi", "send", "greeter:greet", "woh=Eve")
    assert refused.returncode == 1
    assert "validation_error" in refused.stderr
    assert msgspec.json.decode(folder.run("ksi", "show", "greeting/Eve").stdout or b"{}") == {}


def test_the_program_runs(folder: Folder) -> None:
    done = folder.run("python", folder.write("program.py", PROGRAM))
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (OTHER.replace("who: str) -> str:", "who) -> str:"), "parameter 'who' has no type hint"),
        (OTHER.replace("async def preview", "def preview"), "a plain `def` must say how it is called"),
        (PLUGIN.replace('name = "greeter"', 'name = "other"'), "'greeter:greet' has two owners"),
    ],
    ids=["missing hint", "plain def", "clashing name"],
)
def test_a_wrong_plugin_is_refused_and_told_what_to_do(folder: Folder, wrong: str, advice: str) -> None:
    refused = folder.run("ksi", "plugin", "load", folder.write("wrong.py", wrong))
    assert refused.returncode == 1
    assert advice in refused.stderr


def test_a_plugin_that_blocks_the_loop_is_named_in_the_log(folder: Folder) -> None:
    blocking = PLUGIN.replace("greeter", "sleeper").replace(
        '        return f"Hello, {who}!"', '        __import__("time").sleep(2.5)\n        return who', 1
    )
    loaded = folder.run("ksi", "plugin", "load", folder.write("sleeper.py", blocking))
    assert loaded.returncode == 0, loaded.stderr
    assert folder.run("ksi", "send", "sleeper:preview", "who=Ada").returncode == 0
    log = (folder.home / "logs" / "daemon.log").read_text()
    assert "declare the handler blocking=True" in log
    assert "sleeper.py" in log


def test_a_daemon_runs_without_the_plugins_that_are_wrong_and_shows_why(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("greeter.py", PLUGIN.replace("who: str) -> str:", "who) -> str:"))
    try:
        started = folder.run(*LINES[0], "--plugin", folder.write("cycle.py", CYCLE))
        assert started.returncode == 0
        assert set(msgspec.json.decode(started.stdout)["failed"]) == {"egg", "hen", "greeter"}
        listed = folder.run("ksi", "plugin", "list").stdout
        assert "parameter 'who' has no type hint" in listed
        assert "hen -> egg -> hen" in listed
    finally:
        folder.run("ksi", "stop", "-q")
