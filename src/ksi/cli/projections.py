"""``ksi projections``, ``ksi projection``: the read models, what they could not take, and building them anew."""

from __future__ import annotations

import click

from ksi.cli.arguments import POSITION
from ksi.cli.invocation import Invocation, command, family
from ksi.cli.output import Record, json_line, show_table, show_value, time_of
from ksi.cli.reach import ask
from ksi.client.client import Options

REBUILD_TIMEOUT = 3600.0


@command()
@click.pass_obj
def projections(invocation: Invocation) -> None:
    """List the read models: where they stand, how far behind, and what is wrong with them."""
    columns = ("NAME", "VERSION", "STATE", "POSITION", "LAG", "SECONDS", "PARKED", "PROBLEM")
    show_table(invocation, ask(invocation, "projection:list")["projections"], columns, _cells)


@family()
def projection() -> None:
    """Rebuild a read model; see, retry and drop what it could not take."""


@projection.command()
@click.argument("name")
@click.option("--diff", is_flag=True, help="Only show what would be others, and leave the old one.")
@click.pass_obj
def rebuild(invocation: Invocation, name: str, diff: bool) -> None:
    """Fold a read model anew beside the old one, compare them, and put it in the old one's place."""
    options = Options(timeout=REBUILD_TIMEOUT)
    rebuilt: Record = ask(invocation, "projection:rebuild", {"name": name, "diff": diff}, options=options)
    if invocation.json:
        click.echo(json_line(rebuilt))
        return
    for example in rebuilt["examples"]:
        click.echo(f"{json_line(example['key'])}\n  - {_record(example['before'])}\n  + {_record(example['after'])}")
    counts = ", ".join(f"{rebuilt[word]} {word}" for word in ("added", "removed", "changed"))
    end = "in its place" if rebuilt["swapped"] else "the old one stays"
    click.echo(f"{name} @{rebuilt['position']}: {rebuilt['records']} records, {counts}; {end}")


@projection.command()
@click.argument("name")
@click.pass_obj
def parked(invocation: Invocation, name: str) -> None:
    """List the events that a read model, or another subscriber, could not take."""
    found = ask(invocation, "projection:parked", name=name)["parked"]
    show_table(invocation, found, ("POSITION", "EVENT", "STREAM", "PARKED", "REASON"), _parked_cells)


@projection.command()
@click.argument("name")
@click.argument("position", type=POSITION, required=False)
@click.pass_obj
def retry(invocation: Invocation, name: str, position: int | None) -> None:
    """Have parked events tried again, one or all."""
    show_value(invocation, ask(invocation, "projection:retry", name=name, position=position))


@projection.command()
@click.argument("name")
@click.argument("position", type=POSITION, required=False)
@click.option("--reason", default="", help="A word for those who read the log.")
@click.pass_obj
def drop(invocation: Invocation, name: str, position: int | None, reason: str) -> None:
    """Give parked events up, one or all."""
    show_value(invocation, ask(invocation, "projection:drop", name=name, position=position, reason=reason))


def _cells(status: Record) -> tuple[str, ...]:
    return (
        status["name"],
        str(status["version"]),
        status["state"],
        f"@{status['position']}",
        str(status["lag"]),
        f"{status['lag_seconds']:.1f}",
        str(status["parked"]),
        status["problem"] or "",
    )


def _parked_cells(event: Record) -> tuple[str, ...]:
    return f"@{event['position']}", event["name"], event["stream"], time_of(event["parked_at"]), event["reason"]


def _record(record: Record | None) -> str:
    return "nothing" if record is None else json_line(record)
