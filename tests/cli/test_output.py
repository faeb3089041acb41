"""Answers as lines for people."""

import subprocess
from pathlib import Path

import click
import pytest

from ksi.cli.failure import exit_code, facts, remedy
from ksi.cli.output import duration, short, size
from ksi.cli.tree import tree_lines
from ksi.core.errors import (
    ConfigError,
    ConflictError,
    KSIConnectionError,
    KSIError,
    NotFoundError,
    UnknownEventError,
    WrongExpectedVersionError,
    from_wire,
)
from tests.cli.processes import Cli, on_a_terminal


def node(name: str, position: int, *children: object, **more: object) -> dict[str, object]:
    return {"name": name, "kind": "request", "status": "ok", "position": position, "children": list(children)} | more


def test_a_tree_shows_each_event_below_its_cause() -> None:
    tree = [
        node(
            "agent:send_message",
            41,
            node("completion:create", 42, node("a:b", 43, kind="fact"), tokens=45, duration_ms=1100),
            node("c:d", 90, node("e:f", 91), status="error"),
            duration_ms=61_000.0,
        )
    ]
    assert [click.unstyle(line) for line in tree_lines(tree)] == [
        "agent:send_message  ok  1:01 min  @41",
        "├─ completion:create  ok  1.1 s  45 tokens  @42",
        "│  └─ a:b  @43",
        "└─ c:d  error  @90",
        "   └─ e:f  ok  @91",
    ]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, ""), (0.1234, "0.123 ms"), (999, "999 ms"), (1500, "1.5 s"), (306_000, "5:06 min")],
)
def test_a_duration_has_its_unit(milliseconds: float | None, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(("size_bytes", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_a_size_has_its_unit(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_ids_are_shown_as_long_as_it_takes_to_tell_them_apart() -> None:
    near, other = "01a20cac-7b6b-7461-bc3f-c942ffebcb54", "01a20cac-7b6b-7461-bc30-a00000000000"
    assert short([near, near]) == [near[:18]] * 2
    assert short([near, other, "session-1"]) == [near[:23], other[:23], "session-1"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(KSIConnectionError("x"), 3), (ConfigError("x", where="y"), 2), (UnknownEventError("a:b"), 1)],
)
def test_each_kind_of_error_has_its_exit_code(error: KSIError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_says_its_remedy_in_one_line() -> None:
    error = WrongExpectedVersionError("a/b", expected=1, actual=2)
    assert remedy(error) == "Another writer appended first."
    assert facts(error)["details"] == {"stream": "a/b", "expected": 1, "actual": 2}


@pytest.mark.parametrize("error", [NotFoundError("run", "last"), ConflictError("plugin 'a' is needed by b")])
def test_a_remedy_fits_whatever_was_not_found_or_not_as_it_must_be(error: KSIError) -> None:
    assert len(remedy(error)) < 80
    assert "event id" not in remedy(error)


def test_a_remedy_is_for_people() -> None:
    said = remedy(from_wire("internal_error", "a fault"))
    assert said == "A handler raised something that is no `KSIError`. The traceback is in the daemon's log."


def test_an_error_of_a_later_daemon_keeps_its_code() -> None:
    found = facts(from_wire("from_the_future", "well", {"a": 1}))
    assert (found["code"], found["message"], found["remedy"]) == ("from_the_future", "well", "")
    assert found["details"]["a"] == 1


@pytest.mark.parametrize(
    ("said", "is_terminal", "is_json"),
    [([], False, True), ([], True, False), (["--no-json"], False, False), (["--json"], True, True)],
)
def test_records_are_json_where_no_terminal_shows_them_unless_it_is_said(
    said: list[str], is_terminal: bool, is_json: bool, tmp_path: Path
) -> None:
    command = Cli(tmp_path).command("config", "show", *said)
    shown = on_a_terminal(*command)[0] if is_terminal else subprocess.check_output(command, text=True)
    assert shown.startswith('{"name":"home"') == is_json
