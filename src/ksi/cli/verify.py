"""``ksi verify``: whether the log is what was written."""

from __future__ import annotations

import sys

import click

from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import json_line
from ksi.cli.reach import ask
from ksi.client.client import Options


@command()
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=3600.0, help="Seconds it may take.")
@click.pass_obj
def verify(invocation: Invocation, timeout: float) -> None:
    """Check digests, the chain of commits and the witness of the log. Exit code 1 where something is wrong."""
    answer = ask(invocation, "log:verify", options=Options(timeout=timeout))
    if invocation.json:
        click.echo(json_line(answer))
    elif answer["problems"]:
        for problem in answer["problems"]:
            click.echo(problem if isinstance(problem, str) else json_line(problem))
    else:
        click.echo(f"the log is whole up to @{answer['head']}")
    if answer["problems"]:
        sys.exit(EXIT_EVENT_ERROR)
