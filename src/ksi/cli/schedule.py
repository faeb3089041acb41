"""``ksi schedule``: events that are asked for by the clock."""

from __future__ import annotations

import click

from ksi.cli.arguments import EVENT_NAME, FIELD, payload
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value, time_of
from ksi.cli.reach import ask


@family()
def schedule() -> None:
    """Ask for events once, every so often, or by a cron line; over restarts."""


@schedule.command()
@click.argument("name")
@click.argument("event", type=EVENT_NAME)
@click.argument("fields", nargs=-1, type=FIELD)
@click.option("--at", help="Once, at a time with its zone, as 2026-11-24T08:00:00Z.")
@click.option("--every", type=click.FloatRange(min=0.001), help="Seconds between two times.")
@click.option("--cron", help="Minute, hour, day, month, weekday (UTC), as in '*/5 * * * *'.")
@click.option("--missed", type=click.Choice(["all", "latest", "none"]), default="latest", show_default=True)
@click.pass_obj
def add(
    invocation: Invocation,
    name: str,
    event: str,
    fields: tuple[str, ...],
    at: str | None,
    every: float | None,
    cron: str | None,
    missed: str,
) -> None:
    """Schedule EVENT with FIELDS (key=text, key:=json). --missed: what is fired of the times while nobody ran."""
    times = {key: value for key, value in (("at", at), ("every", every), ("cron", cron)) if value is not None}
    if len(times) != 1:
        raise click.UsageError("give one of --at, --every and --cron")
    asked = {"name": name, "event": event, "data": payload(fields), "missed": missed} | times
    show_value(invocation, ask(invocation, "schedule:add", asked))


@schedule.command("list")
@click.pass_obj
def list_schedules(invocation: Invocation) -> None:
    """List schedules, with the last time that was fired and the next one that is due."""
    columns = ("NAME", "EVENT", "WHEN", "LAST", "NEXT", "PRINCIPAL")
    show_table(invocation, ask(invocation, "schedule:list")["schedules"], columns, _cells)


@schedule.command()
@click.argument("name")
@click.pass_obj
def remove(invocation: Invocation, name: str) -> None:
    """Fire a schedule no more."""
    show_value(invocation, ask(invocation, "schedule:remove", name=name))


def _cells(shown: Record) -> tuple[str, ...]:
    return (
        shown["name"],
        shown["event"],
        shown["when"],
        time_of(shown["last"]),
        time_of(shown["next"]),
        shown["principal"],
    )
