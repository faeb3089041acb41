"""``ksi record``, and what ``ksi replay`` and ``ksi whatif`` do with a script: its models are asked through a door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import json_line
from ksi.cli.script import run_script
from ksi.core.errors import ReplayDivergenceError


@command()
@click.argument("script", nargs=-1, required=True, metavar="-- SCRIPT…")
@click.pass_obj
def record(invocation: Invocation, script: tuple[str, ...]) -> int:
    """Run a script as it is, and record what it asks of models through OPENAI_BASE_URL and ANTHROPIC_BASE_URL.

    Its own key goes to the provider and is not kept. The exit code is the script's.
    """
    ran = run_script(invocation, script, "door:record", {}, is_recorded=True)
    _say(invocation, ran.end, f"recorded {ran.end['calls']} calls: ksi replay {ran.run} -- {' '.join(script)}")
    return ran.exit_code


def replay_script(invocation: Invocation, run: str, script: Sequence[str], ignore: Sequence[str]) -> int:
    """The exit code; raises ReplayDivergenceError for the first call that is none of the recorded ones."""
    ran = run_script(invocation, script, "door:replay", {"run": run, "ignore": ignore}, is_recorded=False)
    for said in ran.said[:1]:
        error = ReplayDivergenceError(said["position"], recorded=said["recorded"], requested=said["requested"])
        show_divergence(error, on_stderr=True)
        raise error
    calls, left = ran.end["calls"], ran.end["left"]
    if left:
        _say(invocation, ran.end, f"{calls} calls served; {left} recorded calls were not made")
        return EXIT_EVENT_ERROR
    _say(invocation, ran.end, f"identical: {calls} calls served; 0 went upstream")
    return ran.exit_code


def whatif_script(invocation: Invocation, run: str, script: Sequence[str], asked: dict[str, Any]) -> int:
    """The exit code of the script."""
    ran = run_script(invocation, script, "door:whatif", {"of": run, **asked}, is_recorded=True)
    served = ran.end["served"]
    text = (
        f"{served} calls served, {ran.end['calls'] - served} asked anew in run {ran.run}; the script's tools ran again"
    )
    _say(invocation, ran.end, text)
    return ran.exit_code


def show_divergence(error: ReplayDivergenceError, *, on_stderr: bool = False) -> None:
    """What is recorded, and what came; ``on_stderr`` where stdout is a script's."""
    for sign, what, colour in (("-", error.recorded, "red"), ("+", error.requested, "green")):
        if what is not None:
            click.secho(f"{sign} {json_line(what)}", fg=colour, err=on_stderr)


def _say(invocation: Invocation, end: Any, text: str) -> None:
    """On stderr: stdout is the script's."""
    if invocation.json_given:
        click.echo(json_line(end), err=True)
    else:
        invocation.say(f"ksi: {text}")
