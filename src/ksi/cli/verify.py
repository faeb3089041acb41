"""``ksi verify``: whether the log is what was written."""

from __future__ import annotations

import os
import sys
from contextlib import closing

import click
import msgspec

from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, json_line
from ksi.cli.reach import ask
from ksi.client.client import Options
from ksi.client.spawn import is_answering
from ksi.core import config
from ksi.store.keyfile import KeyFile, keys_of
from ksi.store.vault import Vault


@command()
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=3600.0, help="Seconds it may take.")
@click.pass_obj
def verify(invocation: Invocation, timeout: float) -> None:
    """Check digests, the chain of commits, the indexes and the witness of the log, with a daemon or without.

    Exit code 1 where something is wrong.
    """
    if invocation.start or is_answering(invocation.home.socket):
        answer = ask(invocation, "log:verify", options=Options(timeout=timeout))
    else:
        answer = _verified_here(invocation)
    if invocation.json:
        click.echo(json_line(answer))
    elif answer["problems"]:
        for problem in answer["problems"]:
            click.echo(problem if isinstance(problem, str) else json_line(problem))
    else:
        click.echo(f"the log is whole up to @{answer['head']}")
    if answer["problems"]:
        sys.exit(EXIT_EVENT_ERROR)


def _verified_here(invocation: Invocation) -> Record:
    url = config.load(invocation.home, os.environ).store.url
    if url is None:
        from ksi.store.offline import verify_file  # SQLite: a daemon that runs is asked without it

        found: Record = msgspec.to_builtins(verify_file(invocation.home.log))
    else:
        from ksi.store.postgres_verify import verify_database  # an extra

        with closing(Vault(KeyFile(keys_of(invocation.home.log)))) as vault:
            found = msgspec.to_builtins(verify_database(url.reveal(), vault))
    return found
