"""``ksi backup``, ``ksi erase`` and ``ksi store``: care of the log, also of one that no daemon has open."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ksi.cli.arguments import PLACE, POSITION, Moment
from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, command, family
from ksi.cli.output import Record, json_line, size
from ksi.cli.past import position_of
from ksi.cli.reach import ask
from ksi.client.client import Options
from ksi.core import config
from ksi.core.clock import SystemClock

if TYPE_CHECKING:
    from ksi.store.backup import Restored

TIMEOUT = 3600.0
LOST_UNASKED = 100
"""So many events are given up at a word; more only where somebody says so twice."""
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@command()
@click.argument("file", type=FILE)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.option("--keys", type=FILE, help="Another new file, for the keys of what can be erased.")
@click.option("--blobs", type=FOLDER, help="A folder for large payloads, new or from the last time.")
@click.pass_obj
def backup(invocation: Invocation, file: Path, timeout: float, keys: Path | None, blobs: Path | None) -> None:
    """Copy the log into FILE, a new one, while all goes on; the copy is checked.

    `ksi store restore FILE` makes a log of it again. What was recorded for a subject is in it as ciphertext: keep the
    keys elsewhere, and not for longer than an erasure may take. Large payloads are files beside the log, in clear:
    --blobs copies those that its folder lacks, and takes erased ones out of it.
    """
    others = {"keys": keys, "blobs": blobs}
    said = {"path": str(file.absolute())} | {name: str(path.absolute()) for name, path in others.items() if path}
    made: Record = ask(invocation, "store:backup", said, options=Options(timeout=timeout))
    if invocation.json:
        click.echo(json_line(made))
        return
    click.echo(f"{made['path']}: the log up to @{made['position']}, {size(made['bytes'])}")
    click.echo(f"sha256 {made['sha256']}")
    if (copied := made["blobs"]) is not None:
        click.echo(f"{copied['path']}: {copied['blobs']} blobs, {copied['copied']} of them new")
        for damaged in copied["damaged"]:
            click.echo(f"{damaged} is not what its name says, and not copied")
    elif any(invocation.home.blobs.glob("*")):
        click.echo("without blobs: --blobs DIR copies those too")


@command()
@click.argument("subject")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.option("--with-damaged", is_flag=True, help="Remove the damaged logs that accept-loss has put aside, too.")
@click.pass_obj
def erase(invocation: Invocation, subject: str, timeout: float, with_damaged: bool) -> None:
    """Erase what was recorded for SUBJECT, for good: its key is destroyed, read models are built again without it.

    Backups of the log can not be read there either; backups of the keys can: remove those. Damaged logs that were put
    aside show it as before: they are named, or removed with --with-damaged.
    """
    said = {"subject": subject, "with_damaged": with_damaged}
    erased: Record = ask(invocation, "store:erase", said, options=Options(timeout=timeout))
    if invocation.json:
        click.echo(json_line(erased))
        return
    views = f"; built again: {', '.join(erased['views'])}" if erased["views"] else ""
    click.echo(f"{erased['events']} events of {subject} can not be read any more{views}")
    if erased["damaged"]:
        click.echo(f"It may still be read in {', '.join(erased['damaged'])}: remove them, or erase --with-damaged.")


@family()
def store() -> None:
    """Keep the log small; restore and rescue one that no daemon has open; try upcasters on one that is."""


@store.command()
@click.argument("file", type=FILE, required=False)
@click.option("--before", type=PLACE, help="What stands before this position, or time, leaves.")
@click.option("--only", type=click.Choice(["chunks", "effects"]), help="Default: both.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.pass_obj
def archive(
    invocation: Invocation, file: Path | None, before: int | Moment | None, only: str | None, timeout: float
) -> None:
    """Move chunks and effects of closed runs into FILE, a new one, which is checked before anything leaves.

    Facts, requests and outcomes stay. Who reads what has left is told the file; `ksi store attach FILE` brings it back.
    Without FILE: what is older than store.retention says, into files of their own.
    """
    if (file is None) != (before is None):
        raise click.UsageError("give FILE and --before, or neither: then store.retention says what leaves")
    if file is None or before is None:
        made = ask(invocation, "store:apply_retention", options=Options(timeout=timeout))["archives"]
    else:
        place = before if isinstance(before, int) else position_of(invocation, before) + 1
        asked: Record = {"path": str(file.absolute()), "before": place}
        asked |= {} if only is None else {"categories": [only]}
        made = [ask(invocation, "store:archive", asked, options=Options(timeout=timeout))]
    for one in made:
        click.echo(json_line(one) if invocation.json else _archived(one))
    if not made and not invocation.json:
        click.echo("nothing is too old")


def _archived(made: Record) -> str:
    if not made["rows"]:
        return f"before @{made['before']} there is nothing that can leave: {made['path']} was not made"
    rows = f"{made['rows']} rows of before @{made['before']}, {size(made['bytes'])}"
    return f"{made['path']}: {rows}\nsha256 {made['sha256']}"


@store.command()
@click.argument("file", type=FILE)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.pass_obj
def attach(invocation: Invocation, file: Path, timeout: float) -> None:
    """Bring back what is in the archive FILE, which is not needed any more then."""
    attached: Record = ask(invocation, "store:attach", path=str(file.absolute()), options=Options(timeout=timeout))
    rows = f"{attached['rows']} rows of {attached['path']} are in the log again"
    click.echo(json_line(attached) if invocation.json else rows)


@store.command()
@click.argument("file", type=FILE)
@click.option("--keys", type=FILE, help="The backup of the keys; without it what has a subject can not be read.")
@click.option("--blobs", type=FOLDER, help="The folder with the backup of large payloads.")
@click.pass_obj
def restore(invocation: Invocation, file: Path, keys: Path | None, blobs: Path | None) -> None:
    """Make the log of this home, which has none yet, out of the backup FILE. The backup is checked first.

    Where `store.url` names a database the log is made there, whatever the backup was made of.
    """
    invocation.home.make()
    restored = _restored(invocation, file, keys)
    if blobs is not None:
        from ksi.store.mirror import mirrored  # the same

        mirrored(blobs, invocation.home.blobs)
    click.echo(
        json_line(restored) if invocation.json else f"{restored.path} is there again, up to @{restored.position}"
    )


def _restored(invocation: Invocation, file: Path, keys: Path | None) -> Restored:
    url = config.load(invocation.home, os.environ).store.url
    if url is None:
        from ksi.store.backup import restore  # SQLite: `ksi backup` asks the daemon without it

        return restore(file, invocation.home.log, keys)
    from ksi.store import postgres_backup  # an extra

    return postgres_backup.restore(file, url.reveal(), invocation.home.log, keys)


@store.command("accept-loss")
@click.option("--at", type=POSITION, required=True, help="The last position that is kept: a commit ends there.")
@click.option("--yes", is_flag=True, help="Do not ask, however much is lost.")
@click.pass_obj
def accept_loss(invocation: Invocation, at: int, yes: bool) -> None:
    """Go on with a damaged log as far as it is whole, without what stands behind that.

    The error that names the damage says the position. It says how many events go, and asks first where they are many.
    The damaged files are kept under another name; the fact store:loss_was_accepted says what is missing.
    """
    from ksi.store.salvage import accept_loss as accepted  # SQLite: `ksi backup` asks the daemon without it
    from ksi.store.salvage import events_lost  # the same

    _agree(invocation, events_lost(invocation.home.log, at), at, yes=yes)
    loss = accepted(invocation.home.log, at, SystemClock())
    if invocation.json:
        click.echo(json_line(loss))
        return
    lost = f"@{loss.at + 1} to @{loss.lost_to} are lost" if loss.lost_to > loss.at else "nothing is lost"
    click.echo(f"The log ends at @{loss.at}: {lost}. What was there is in {loss.kept_as}.")


def _agree(invocation: Invocation, lost: int, at: int, *, yes: bool) -> None:
    """Go on only where somebody wants that."""
    going = f"{lost} events behind @{at} go; a backup may have them"
    if lost:
        invocation.say(going)
    if lost <= LOST_UNASKED or yes:
        return
    if not invocation.is_interactive:
        raise click.UsageError(f"{going}: say --yes to go on without them")
    click.confirm("Go on without them?", abort=True, err=True)


@store.command("check-upcasters")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT, help="Seconds it may take.")
@click.pass_obj
def check_upcasters(invocation: Invocation, timeout: float) -> None:
    """Try the upcasters of all plugins on all facts of older versions in the log. Exit code 1 where one fails."""
    checked: Record = ask(invocation, "store:check_upcasters", options=Options(timeout=timeout))
    if invocation.json:
        click.echo(json_line(checked))
    else:
        for problem in checked["problems"] or [f"{checked['events']} facts of older versions, all of them readable"]:
            click.echo(problem)
    if checked["problems"]:
        sys.exit(EXIT_EVENT_ERROR)
