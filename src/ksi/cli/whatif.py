"""``ksi whatif``: change one request, and run again what depended on it, on a branch."""

from __future__ import annotations

from typing import Any

import click

from ksi.cli.arguments import FIELD, POSITION, payload
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, json_line
from ksi.cli.past import show_differences
from ksi.cli.reach import ask, stream
from ksi.cli.record import whatif_script

MARKS = {"changed": "*", "rerun": "↻", "kept": "="}


@command()
@click.argument("run")
@click.argument("script", nargs=-1, metavar="[-- SCRIPT…]")
@click.option("--at", type=POSITION, help="The request to change; the first of the run where nothing is said.")
@click.option("--set", "fields", multiple=True, type=FIELD, help="As in text=… or size:=3; many times.")
@click.option("--live", is_flag=True, help="Run it, models and tools included; else only say what would run.")
@click.option("--name", help="The branch that is made.")
@click.option("--ignore", multiple=True, metavar="PATH", help="With a script: what does not count, as $.metadata.time.")
@click.pass_obj
def whatif(
    invocation: Invocation,
    run: str,
    script: tuple[str, ...],
    at: int | None,
    fields: tuple[str, ...],
    live: bool,
    name: str | None,
    ignore: tuple[str, ...],
) -> int | None:
    """Change a request of a run, and run again on a branch what depended on it, and nothing else.

    With a SCRIPT that was recorded: run it; what it asked before the call at --at is served out of the log, that call
    is changed, and from there on its models are asked. Its own tools run again.
    """
    if script:
        _refuse_unfit(live, name)
        told = {"at": at, "change": payload(fields) or None, "ignore": ignore}
        return whatif_script(invocation, run, script, told)
    if not fields or ignore:
        raise click.UsageError("--set says what to change; --ignore is for a script")
    place = _first_of(invocation, run) if at is None else at
    asked = {"at": place, "change": payload(fields), "live": live} | ({} if name is None else {"name": name})

    def show(step: Record, _: str | None) -> None:
        if invocation.json:
            click.echo(json_line(step))
        else:
            error = f"  [{step['error']}]" if step["error"] else ""
            click.echo(f"{MARKS[step['what']]} @{step['position']}  {step['name']}  {step['what']}{error}")

    ending = stream(invocation, "timetravel:whatif", asked, show)
    if invocation.json:
        click.echo(json_line(ending.value))
    elif ending.value is not None:
        _show_answer(ending.value)
    ending.exit_if_interrupted()
    return None


def _refuse_unfit(live: bool, name: str | None) -> None:
    if not live:
        raise click.UsageError("a script runs for real, its tools too, and its new calls are paid: say --live")
    if name is not None:
        raise click.UsageError("a script makes a new run, no branch")


def _first_of(invocation: Invocation, run: str) -> int:
    wanted: dict[str, Any] = {"correlation_id": run, "kinds": ["request"], "limit": 1}
    (first,) = ask(invocation, "log:read", wanted)["events"]
    position: int = first["position"]
    return position


def _show_answer(answer: Record) -> None:
    for compared in answer["entities"]:
        click.secho(compared["entity"], bold=True)
        show_differences(compared["differences"])
    tokens, cost = answer["tokens"], answer["cost"]
    saved = f"{_paid(tokens['saved'], cost['saved'])} saved"
    if answer["branch"] is None:
        at_stake = _paid(tokens["before"] - tokens["saved"], cost["before"] - cost["saved"])
        click.echo(f"nothing was run; what would run had cost {at_stake}, {saved} (--live)")
    else:
        click.echo(f"on branch {answer['branch']}: {_paid(tokens['spent'], cost['spent'])} spent, {saved}")
    if cost["unpriced"]:
        click.echo(f"without {cost['unpriced']} answers of models whose price nobody knows: [prices] can say it")


def _paid(tokens: int, dollars: float) -> str:
    return f"{tokens} tokens (${dollars:.4f})"
