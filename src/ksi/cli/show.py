"""``ksi show``: one thing, as it is or as it was."""

from __future__ import annotations

import click

from ksi.cli.arguments import POSITION
from ksi.cli.invocation import Invocation, command
from ksi.cli.log import show_tree
from ksi.cli.output import Record, show_value
from ksi.cli.reach import ask

LAST = "last"


@command()
@click.argument("thing", metavar="ENTITY|@N|ID|last")
@click.option("--at", type=POSITION, help="As it was at this position.")
@click.pass_obj
def show(invocation: Invocation, thing: str, at: int | None) -> None:
    """Show an entity (conversation/c1), an event (@1234, or the head of its id), or the last run."""
    if "/" in thing:
        _show_entity(invocation, thing, at)
    elif at is not None:
        raise click.UsageError("--at needs an entity, as conversation/c1")
    elif thing == LAST:
        show_tree(invocation, ask(invocation, "correlation:tree", run=LAST))
    else:
        show_value(invocation, ask(invocation, "log:get", id=thing)["event"])


def _show_entity(invocation: Invocation, entity: str, at: int | None) -> None:
    found: Record = ask(invocation, "entity:show", {"entity": entity} | ({} if at is None else {"at": at}))
    if invocation.json:
        show_value(invocation, found)
        return
    click.secho(f"{found['entity']}  version {found['version']}  @{found['at']}", bold=True)
    show_value(invocation, found["state"])
