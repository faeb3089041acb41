"""``ksi plugin``: what extends the daemon, changed while it runs."""

from __future__ import annotations

from pathlib import Path

import click

from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value
from ksi.cli.reach import ask


@family()
def plugin() -> None:
    """List, load, unload and reload plugins."""


@plugin.command("list")
@click.pass_obj
def list_plugins(invocation: Invocation) -> None:
    """List the plugins; a failed one with its error."""
    plugins = ask(invocation, "plugin:list")["plugins"]
    show_table(invocation, plugins, ("NAME", "GENERATION", "STATUS", "EVENTS", "SOURCE"), _cells)
    if invocation.json:
        return
    for failed in plugins:
        if failed["problem"]:
            click.secho(f"\n{failed['name']} failed:", bold=True)
            click.echo(failed["problem"])


@plugin.command()
@click.argument("target", metavar="FILE|module:Class")
@click.pass_obj
def load(invocation: Invocation, target: str) -> None:
    """Load a plugin from a file, or from what is installed where the daemon runs."""
    # The daemon's directory is not ours.
    file = Path(target).expanduser()
    where = str(file.absolute()) if target and file.exists() else target
    show_value(invocation, ask(invocation, "plugin:load", target=where))


@plugin.command()
@click.argument("name")
@click.pass_obj
def unload(invocation: Invocation, name: str) -> None:
    """Unload a plugin; what it is doing may finish."""
    show_value(invocation, ask(invocation, "plugin:unload", name=name))


@plugin.command()
@click.argument("name")
@click.pass_obj
def reload(invocation: Invocation, name: str) -> None:
    """Load a plugin's code again: new requests get the new, those under way finish on the old."""
    show_value(invocation, ask(invocation, "plugin:reload", name=name))


def _cells(found: Record) -> tuple[str, ...]:
    events = found["events"]
    count = len(events) if isinstance(events, list) else events
    return (found["name"], str(found["generation"]), found["status"], str(count), str(found.get("source") or ""))
