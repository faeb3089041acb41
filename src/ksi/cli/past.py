"""``ksi blame``, ``bisect`` and ``replay``: which event made it so, why, and does it come out the same again."""

from __future__ import annotations

from typing import Any

import click

from ksi.cli.arguments import PLACE, Moment
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, json_line, show_value, time_of
from ksi.cli.reach import ask
from ksi.cli.record import replay_script, show_divergence
from ksi.client.options import Options
from ksi.core.errors import ReplayDivergenceError

REPLAY_TIMEOUT = 600.0


@command()
@click.argument("entity")
@click.argument("path")
@click.option("--at", type=PLACE, help="As it was at this position, or time.")
@click.pass_obj
def blame(invocation: Invocation, entity: str, path: str, at: int | Moment | None) -> None:
    """Find the event that wrote a value of an entity, and the causes behind it.

    PATH is a way to the value, as in messages.3, messages[-1].text or values["a key"].
    """
    place = {} if at is None else {"at": position_of(invocation, at)}
    found = ask(invocation, "timetravel:blame", {"entity": entity, "path": path} | place)
    if invocation.json:
        show_value(invocation, found)
        return
    click.echo(f"{path} = {json_line(found['after'])}" if "after" in found else f"{path} was taken away")
    show_chain(found["chain"])


@command()
@click.argument("run")
@click.option("--where", required=True, metavar="EXPR", help="""As in: messages[-1].text contains "Bruno".""")
@click.option("--monotone", is_flag=True, help="It changes once: ask less often.")
@click.pass_obj
def bisect(invocation: Invocation, run: str, where: str, monotone: bool) -> int:
    """Find the event of a run after which an expression holds, and before which it did not.

    The expression is about the state of the entity that the event wrote. Exit code 1: no event made it true.
    """
    found = ask(invocation, "timetravel:bisect", run=run, where=where, monotone=monotone)
    if invocation.json:
        show_value(invocation, found)
    elif found["event"] is None:
        click.echo("no event of this run made it true")
    else:
        click.echo(line_of(found["event"]))
        show_differences(found["differences"])
    return 0 if found["event"] else 1


@command()
@click.argument("run")
@click.argument("script", nargs=-1, metavar="[-- SCRIPT…]")
@click.option("--ignore", multiple=True, metavar="PATH", help="With a script: what does not count, as $.metadata.time.")
@click.pass_obj
def replay(invocation: Invocation, run: str, script: tuple[str, ...], ignore: tuple[str, ...]) -> int | None:
    """Run the handlers of a run again, on what is recorded. Nothing outside is called.

    With a SCRIPT that was recorded: run it, and answer what it asks of models out of the log.

    Exit code 1: a handler, or the script, did something else than when it was recorded; both are shown.
    """
    if script:
        return replay_script(invocation, run, script, ignore)
    if ignore:
        raise click.UsageError("--ignore is for a script: ksi replay RUN -- python my_agent.py")
    try:
        found = ask(invocation, "timetravel:replay", options=Options(timeout=REPLAY_TIMEOUT), run=run)
    except ReplayDivergenceError as error:
        if not invocation.json:
            show_divergence(error)
        raise
    if invocation.json:
        show_value(invocation, found)
        return None
    counts = ", ".join(f"{found[name]} {name}" for name in ("requests", "facts", "chunks", "effects"))
    click.echo(f"{click.style('identical', fg='green')}: {counts}; {found['calls']} calls (sealed by {found['seal']})")
    if found["cut_off"]:
        click.echo(f"{found['cut_off']} requests had been cancelled or cut off: they were repeated up to there")
    return None


def position_of(invocation: Invocation, place: int | Moment) -> int:
    """The position that a place stands for; of a time the last one that was recorded by then."""
    if isinstance(place, int):
        return place
    return int(ask(invocation, "timetravel:position", when_us=place.us))


def show_chain(events: list[Record]) -> None:
    """Each below its cause."""
    for depth, event in enumerate(events):
        click.echo(("   " * (depth - 1) + "└─ " if depth else "") + line_of(event))


def show_differences(differences: list[Record]) -> None:
    """A line for what was, and a line for what is."""
    for each in differences:
        for sign, side, colour in (("-", "before", "red"), ("+", "after", "green")):
            if side in each:
                click.secho(f"{sign} {each['path'] or '.'}: {json_line(each[side])}", fg=colour)


def line_of(event: dict[str, Any]) -> str:
    kind = "" if event["kind"] == "fact" else f"  {event['kind']}"
    return f"@{event['position']}  {event['name']}{kind}  {time_of(event['recorded_at'])}  {event['principal'] or ''}"
