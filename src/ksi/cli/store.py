"""``ksi backup`` and ``ksi store``: copies of the log, and what is done to one that no daemon has open."""

from __future__ import annotations

from pathlib import Path

import click

from ksi.cli.arguments import POSITION
from ksi.cli.invocation import Invocation, command, family
from ksi.cli.output import Record, json_line, size
from ksi.cli.reach import ask
from ksi.client.client import Options
from ksi.core.clock import SystemClock

TIMEOUT = 3600.0
FILE = click.Path(path_type=Path, dir_okay=False)


@command()
@click.argument("file", type=FILE)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.pass_obj
def backup(invocation: Invocation, file: Path, timeout: float) -> None:
    """Copy the log into FILE, a new one, while all goes on; the copy is checked.

    `ksi store restore FILE` makes a log of it again.
    """
    made: Record = ask(invocation, "store:backup", path=str(file.absolute()), options=Options(timeout=timeout))
    if invocation.json:
        click.echo(json_line(made))
        return
    click.echo(f"{made['path']}: the log up to @{made['position']}, {size(made['bytes'])}")
    click.echo(f"sha256 {made['sha256']}")


@family()
def store() -> None:
    """What is done to the log while no daemon runs."""


@store.command()
@click.argument("file", type=FILE)
@click.pass_obj
def restore(invocation: Invocation, file: Path) -> None:
    """Make the log of this home, which has none yet, out of the backup FILE. The backup is checked first."""
    from ksi.store.backup import restore as restored_from  # SQLite: `ksi backup` asks the daemon without it

    restored = restored_from(file, invocation.home.log)
    click.echo(
        json_line(restored) if invocation.json else f"{restored.path} is there again, up to @{restored.position}"
    )


@store.command("accept-loss")
@click.option("--at", type=POSITION, required=True, help="The last position that is kept: a commit ends there.")
@click.pass_obj
def accept_loss(invocation: Invocation, at: int) -> None:
    """Go on with a damaged log as far as it is whole, without what stands behind that.

    The error that names the damage says the position. The damaged files are kept under another name; the fact
    store:loss_was_accepted says what is missing.
    """
    from ksi.store.salvage import accept_loss as accepted  # SQLite: `ksi backup` asks the daemon without it

    loss = accepted(invocation.home.log, at, SystemClock())
    if invocation.json:
        click.echo(json_line(loss))
        return
    lost = f"@{loss.at + 1} to @{loss.lost_to} are lost" if loss.lost_to > loss.at else "nothing is lost"
    click.echo(f"The log ends at @{loss.at}: {lost}. What was there is in {loss.kept_as}.")
