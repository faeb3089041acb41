"""What was said on the command line beside the command itself: ``--home``, ``--json``, ``--start``, ``--quiet``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from ksi.core.events import MAIN
from ksi.core.home import Home


@dataclass(eq=False)
class Invocation:
    """The options that every command understands."""

    home_given: str | None = None
    json_given: bool | None = None
    start: bool = False
    quiet: bool = False
    branch: str = MAIN

    @property
    def home(self) -> Home:
        return Home.choose(self.home_given, os.environ)

    @property
    def json(self) -> bool:
        """Whether records are lines of JSON: as was said, else where no terminal shows them."""
        return not sys.stdout.isatty() if self.json_given is None else self.json_given

    @property
    def is_interactive(self) -> bool:
        """Whether somebody sits in front of it: stdin and stdout are a terminal, and no program reads the answer."""
        return not self.json and sys.stdin.isatty() and sys.stdout.isatty()

    def say(self, text: str) -> None:
        """A word beside the answer: on stderr, and not with ``--quiet``."""
        if not self.quiet:
            click.echo(text, err=True)


def shared_options(*, hidden: bool = False) -> list[click.Parameter]:
    """Fresh options that write into the :class:`Invocation`; of one before and one behind a command, the last wins."""
    return [
        _option("--home", into="home_given", hidden=hidden, metavar="DIR", help="The daemon's directory.  [KSI_HOME]"),
        _option(
            "--json/--no-json",
            into="json_given",
            hidden=hidden,
            help="A line of JSON for each record, or lines for people.  [JSON where stdout is no terminal]",
        ),
        _option("--start", into="start", hidden=hidden, is_flag=True, help="Start the daemon where it does not run."),
        _option("--branch", into="branch", hidden=hidden, metavar="NAME", help="Work on this branch of the log."),
        _option("--quiet", "-q", into="quiet", hidden=hidden, is_flag=True, help="Nothing but answers and errors."),
    ]


def _option(*names: str, into: str, **attributes: Any) -> click.Option:
    def remember(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(context.ensure_object(Invocation), into, value)

    return click.Option([*names], default=None, expose_value=False, callback=remember, is_eager=True, **attributes)


class Command(click.Command):
    """A command that understands the shared options."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *shared_options(hidden=True)]


class Family(click.Group):
    """A command with commands of its own, as ``ksi plugin list``."""

    command_class = Command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *shared_options(hidden=True)]


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """``@click.command`` for a command of ``ksi``."""
    return click.command(name, cls=Command, **attributes)


def family(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Family]:
    """``@click.group`` for a family of commands."""
    return click.group(name, cls=Family, **attributes)
