"""``ksi show``: one thing, as it is or as it was."""

from __future__ import annotations

import click

from ksi.cli.arguments import PLACE, Moment
from ksi.cli.invocation import Invocation, command
from ksi.cli.log import show_tree
from ksi.cli.output import Record, show_value
from ksi.cli.past import position_of, show_differences
from ksi.cli.reach import ask

LAST = "last"


@command()
@click.argument("thing", metavar="ENTITY|@N|ID|last")
@click.option("--at", type=PLACE, help="As it was at this position, or time: @1234, 5m, 2026-11-24T08:00.")
@click.option("--diff", "to", type=PLACE, help="What is not the same at this one.")
@click.pass_obj
def show(invocation: Invocation, thing: str, at: int | Moment | None, to: int | Moment | None) -> None:
    """Show an entity (conversation/c1), an event (@1234, or the head of its id), or the last run."""
    if to is not None:
        if at is None or "/" not in thing:
            raise click.UsageError("--diff needs an entity and --at: show conversation/c1 --at @10 --diff @20")
        _show_diff(invocation, thing, position_of(invocation, at), position_of(invocation, to))
    elif "/" in thing:
        _show_entity(invocation, thing, None if at is None else position_of(invocation, at))
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


def _show_diff(invocation: Invocation, entity: str, at: int, to: int) -> None:
    found = ask(invocation, "timetravel:diff", entity=entity, before=at, after=to)
    if invocation.json:
        show_value(invocation, found)
    else:
        show_differences(found["differences"])
