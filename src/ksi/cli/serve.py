"""``ksi serve``: the daemon in the foreground, and the flags that it understands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ksi.cli.invocation import Invocation, command
from ksi.core.config import load

setting_option = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="As in --set store.durability=normal."
)


def daemon_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of whoever starts a daemon."""
    for option in (
        setting_option,
        click.option("--plugin", "plugins", multiple=True, metavar="module:Class|FILE", help="Load this plugin too."),
    ):
        function = option(function)
    return function


def settings_of(settings: Sequence[str]) -> dict[str, str]:
    """Texts by dotted name, as :func:`ksi.core.config.load` takes them.

    Raises:
        click.UsageError: One is no ``name=value``.
    """
    pairs = [setting.partition("=") for setting in settings]
    for name, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"--set {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def daemon_arguments(plugins: Sequence[str], settings: Sequence[str]) -> list[str]:
    """The same options for ``python -m ksi.daemon``."""
    return [f"--plugin={plugin}" for plugin in plugins] + [f"--set={setting}" for setting in settings]


@command()
@daemon_options
@click.pass_obj
def serve(invocation: Invocation, plugins: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Run the daemon in the foreground; on a terminal with its log lines on stderr. Ctrl-C stops it."""
    from ksi.daemon import run  # the whole daemon: whoever only starts one here does not load it

    sys.path.insert(
        0, str(Path.cwd())
    )  # where module:Class is looked for first, as in a daemon that `ksi start` starts
    sys.exit(run(load(invocation.home, os.environ, settings_of(settings)), plugins=plugins))
