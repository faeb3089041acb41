"""``ksi describe``: the events in the formats that tools read, and what changed since an older description."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, show_records
from ksi.cli.reach import all_pages, run
from ksi.codegen.catalogue import Catalogue, read
from ksi.codegen.compatibility import changes
from ksi.codegen.descriptions import JSON_FORMATS, WRITERS, Format, description
from ksi.transport.http.problems import status_of

FILE = click.Path(path_type=Path, dir_okay=False)


@command()
@click.argument(
    "form", metavar="[openapi|asyncapi|typescript|python|registry]", type=click.Choice([*WRITERS]), required=False
)
@click.option("--output", "-o", type=FILE, metavar="FILE", help="Write it there.")
@click.option("--from", "saved", type=FILE, metavar="FILE", help="Of what `registry` saved there; no daemon is asked.")
@click.option("--check", "old", type=FILE, metavar="OLD.json", help="What changed since; 1 where it breaks clients.")
@click.pass_obj
def describe(
    invocation: Invocation, form: Format | None, output: Path | None, saved: Path | None, old: Path | None
) -> int:
    """Describe all events as OpenAPI, AsyncAPI, TypeScript or Python, from the running daemon."""
    if (form is None) == (old is None):
        raise click.UsageError("say one format, or --check OLD.json")
    if old is not None:
        return _check(invocation, _read(old), saved)
    assert form is not None
    _write(_described(invocation, form, saved), output)
    return 0


def _described(invocation: Invocation, form: Format, saved: Path | None) -> str:
    """The text, JSON indented."""
    text = description(_registered(invocation) if saved is None else _read(saved), form, status_of)
    return msgspec.json.format(text, indent=2) + "\n" if form in JSON_FORMATS else text


def _registered(invocation: Invocation) -> Catalogue:
    """What every format is made of, in pages: a document of many events is no answer of one frame."""
    return read(msgspec.json.encode(run(invocation, lambda client: all_pages(client, "describe:registry"))))


def _read(saved: Path) -> Catalogue:
    try:
        return read(saved.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{saved} can not be read: {error.strerror}") from None


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)


def _check(invocation: Invocation, old: Catalogue, saved: Path | None) -> int:
    new = _registered(invocation) if saved is None else _read(saved)
    found = changes(old, new)
    show_records(invocation, [msgspec.to_builtins(change) for change in found], _line)
    broken = sum(change.breaking for change in found)
    invocation.say(f"{broken} of {len(found)} changes break clients" if found else "nothing changed")
    return EXIT_EVENT_ERROR if broken else 0


def _line(change: Record) -> str:
    word = click.style("breaks", fg="red") if change["breaking"] else "fits  "
    where = f" {change['where']}" if change["where"] else ""
    return f"{word}  {change['event']}{where}: {change['text']}"
