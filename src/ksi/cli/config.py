"""``ksi config``: what is set, and where it was said."""

from __future__ import annotations

import os
from typing import Any

import click

from ksi.cli.invocation import Invocation, family
from ksi.cli.output import json_line, show_table
from ksi.cli.serve import setting_option, settings_of
from ksi.core.config import Secret, load


@family()
def config() -> None:
    """Show the configuration."""


@config.command()
@setting_option
@click.pass_obj
def show(invocation: Invocation, settings: tuple[str, ...]) -> None:
    """Show each value and its source, as a daemon that starts now would read them. Secrets are not shown."""
    found = load(invocation.home, os.environ, settings_of(settings))
    records = [
        {"name": name, "value": _shown(value), "source": source}
        for name, value, source in [("home", str(found.home.path), _home_source(invocation)), *found.values()]
    ]
    show_table(
        invocation,
        records,
        ("NAME", "VALUE", "SOURCE"),
        lambda record: (record["name"], json_line(record["value"]), record["source"]),
    )


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Secret) else value


def _home_source(invocation: Invocation) -> str:
    if invocation.home_given:
        return "flag home"
    return "KSI_HOME" if os.environ.get("KSI_HOME") else "default"
