"""``ksi describe``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.processes import Cli


@pytest.fixture
def saved(ksi: Cli, tmp_path: Path) -> Path:
    """The registry as it is, in a file."""
    file = tmp_path / "events.json"
    assert ksi("describe", "registry", "-o", str(file)).returncode == 0
    return file


def rewrite(file: Path, event: str, **changed: Any) -> None:
    """Let the saved description say something else of one event."""
    registry = msgspec.json.decode(file.read_bytes())
    (found,) = (each for each in registry["events"] if each["name"] == event)
    found.update(changed)
    file.write_bytes(msgspec.json.encode(registry))


def test_a_document_is_written_to_stdout_or_to_a_file(ksi: Cli, tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"
    done = ksi("describe", "openapi", "-o", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert file.read_text() == ksi("describe", "openapi").stdout
    assert "/v1/stream/countdown:run" in msgspec.json.decode(file.read_bytes())["paths"]


def test_types_and_stubs_are_text_of_their_languages(ksi: Cli) -> None:
    ast.parse(ksi("describe", "python").stdout)
    assert "export interface KsiEvents {" in ksi("describe", "typescript").stdout


@pytest.mark.parametrize("form", ["openapi", "asyncapi", "typescript", "python", "registry"])
def test_a_saved_description_needs_no_daemon(ksi: Cli, nowhere: Cli, saved: Path, form: str) -> None:
    assert nowhere("describe", form, "--from", str(saved)).stdout == ksi("describe", form).stdout


def test_a_check_without_changes_ends_with_0(ksi: Cli, saved: Path) -> None:
    done = ksi("describe", "--check", str(saved))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing changed\n")


def test_a_check_lists_what_breaks_and_what_fits_and_ends_with_1(ksi: Cli, saved: Path) -> None:
    rewrite(saved, "countdown:run", chunk={"type": "string"}, errors=["old"])
    done = ksi("describe", "--check", str(saved))
    assert done.returncode == 1
    assert [msgspec.json.decode(line) for line in done.stdout.splitlines()] == [
        {"event": "countdown:run", "where": "chunk", "text": "was string, is integer", "breaking": True},
        {"event": "countdown:run", "where": "error", "text": "old is gone", "breaking": False},
    ]
    assert done.stderr == "1 of 2 changes break clients\n"
    shown = ksi("describe", "--check", str(saved), "--no-json").stdout
    assert shown.splitlines()[0] == "breaks  countdown:run chunk: was string, is integer"


def test_what_fits_alone_ends_with_0_also_between_two_files(nowhere: Cli, saved: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    new.write_bytes(saved.read_bytes())
    rewrite(saved, "countdown:run", errors=["old"])
    done = nowhere("describe", "--check", str(saved), "--from", str(new))
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


@pytest.mark.parametrize("line", ["", "html", "openapi --check FILE", "openapi --from nowhere.json"])
def test_a_wrong_line_is_said_to_be_one(nowhere: Cli, saved: Path, line: str) -> None:
    assert nowhere("describe", *line.replace("FILE", str(saved)).split()).returncode == 2


def test_a_file_that_is_no_description_is_said_to_be_none(nowhere: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"openapi": "3.1.0"}')
    done = nowhere("describe", "python", "--from", str(other))
    assert done.returncode == 1
    assert "ksi describe registry" in done.stderr
