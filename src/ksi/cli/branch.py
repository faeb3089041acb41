"""``ksi fork``, ``ksi branches``, ``ksi diff``, ``ksi discard``: the log's other ways to go on."""

from __future__ import annotations

import click

from ksi.cli.arguments import POSITION
from ksi.cli.invocation import Invocation, command, family
from ksi.cli.output import Record, json_line, show_table
from ksi.cli.past import show_differences
from ksi.cli.reach import ask
from ksi.client.options import Options
from ksi.core.events import MAIN

TIMEOUT = 3600.0


@command()
@click.argument("name")
@click.option("--at", type=POSITION, help="The last position that it sees; the head where nothing is said.")
@click.option("--parent", default=MAIN, show_default=True, help="The branch that it is cut off.")
@click.pass_obj
def fork(invocation: Invocation, name: str, at: int | None, parent: str) -> None:
    """Cut a branch off the log: it sees what there was, and goes on by itself. Nothing is copied."""
    made = ask(invocation, "store:fork", {"name": name, "parent": parent} | ({} if at is None else {"at": at}))
    if invocation.json:
        click.echo(json_line(made))
        return
    click.echo(f"{name}: {parent} up to @{made['forked_at']}")
    click.echo(f"Go on there: ksi send --branch {name} EVENT …   Look at it: ksi log --branch {name}")


@command()
@click.pass_obj
def branches(invocation: Invocation) -> None:
    """List the branches."""
    found = ask(invocation, "store:branches")["branches"]
    show_table(invocation, found, ("NAME", "PARENT", "FORKED AT", "HEAD"), _cells)


@command()
@click.argument("one")
@click.argument("other")
@click.pass_obj
def diff(invocation: Invocation, one: str, other: str) -> None:
    """Show how the entities of two branches differ."""
    found = ask(invocation, "store:diff", one=one, other=other)
    if invocation.json:
        click.echo(json_line(found))
        return
    for compared in found["entities"]:
        click.secho(compared["entity"], bold=True)
        show_differences(compared["differences"])
    if not found["entities"]:
        click.echo(f"The same, since @{found['since']}.")


@command()
@click.argument("name")
@click.pass_obj
def discard(invocation: Invocation, name: str) -> None:
    """Read and write a branch no more."""
    gone = ask(invocation, "store:discard", name=name)
    click.echo(json_line(gone) if invocation.json else f"{name} is discarded.")


@family()
def branch() -> None:
    """Look after a branch."""


@branch.command()
@click.argument("name")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.pass_obj
def materialize(invocation: Invocation, name: str, timeout: float) -> None:
    """Keep the read models of a branch in tables, as those of main.

    Without that they are folded in memory when they are first read after a start, which takes as long as the log is.
    """
    made = ask(invocation, "store:materialize", name=name, options=Options(timeout=timeout))
    click.echo(json_line(made) if invocation.json else f"{name}: {', '.join(made['views'])}")


def _cells(branch: Record) -> tuple[str, ...]:
    places = ("" if branch[key] is None else f"@{branch[key]}" for key in ("forked_at", "head"))
    return (branch["name"], branch["parent"] or "", *places)
