"""Each command line of the pages is one that ``ksi`` and ``make`` understand."""

from __future__ import annotations

import re

import click
import pytest

from ksi.cli.invocation import Invocation
from ksi.cli.main import cli
from tests.docs.pages import PAGES, ROOT, blocks, commands

GUIDES = (*PAGES, ROOT / "CONTRIBUTING.md")
LINES = sorted({tuple(words) for page in GUIDES for block in blocks(page, "console") for words in commands(block)})
TARGETS = [*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE), ".venv"]


def parsed(words: tuple[str, ...]) -> None:
    """Parse all of it and run nothing. Raises click.UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="ksi", obj=Invocation())
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        found = command.get_command(context, rest[0])
        assert found is not None, f"no command {rest[0]!r}"
        command, rest = found, rest[1:]
    command.make_context(words[0], rest, parent=context)


@pytest.mark.parametrize("words", [line[1:] for line in LINES if line[0] == "ksi"], ids=" ".join)
def test_a_line_that_begins_with_ksi_is_a_command(words: tuple[str, ...]) -> None:
    parsed(words)


@pytest.mark.parametrize("target", sorted({line[1] for line in LINES if line[0] == "make"}))
def test_a_line_that_begins_with_make_has_its_target(target: str) -> None:
    assert target in TARGETS


def test_each_command_in_the_text_exists() -> None:
    context = click.Context(cli)
    named = {name for page in GUIDES for name in re.findall(r"`ksi ([a-z]+)", page.read_text())}
    assert named - set(cli.list_commands(context)) == set()
