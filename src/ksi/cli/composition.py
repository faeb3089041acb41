"""``ksi composition``: agents and prompts that are described in files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ksi.cli.complete import given
from ksi.cli.failure import EXIT_EVENT_ERROR
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value
from ksi.cli.reach import ask


@family()
def composition() -> None:
    """Agents and prompts that are described in YAML files."""


@composition.command("list")
@click.option("--kind", type=click.Choice(["agent", "prompt"]), help="Only these.")
@click.pass_obj
def list_compositions(invocation: Invocation, kind: str | None) -> None:
    """List them: those of the home's folder profiles/, and those that come with KSI."""
    found = ask(invocation, "composition:list", given({"kind": kind}))["compositions"]
    show_table(invocation, found, ("NAME", "KIND", "SOURCE", "DESCRIPTION"), _cells)


@composition.command()
@click.argument("name")
@click.pass_obj
def show(invocation: Invocation, name: str) -> None:
    """Show a composition as it is written, with the variables that it takes."""
    shown = ask(invocation, "composition:get", name=name)
    if invocation.json:
        show_value(invocation, shown)
        return
    click.echo(f"# {shown['file']}\n{shown['text'].rstrip()}")
    for variable in shown["variables"]:
        default = "must be given" if variable["default"] is None else f"default {variable['default']}"
        click.echo(f"# {variable['name']}: {default}  {variable['description']}".rstrip())


@composition.command()
@click.argument("name")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="What a variable is; may be repeated.")
@click.pass_obj
def compose(invocation: Invocation, name: str, variables: Sequence[str]) -> None:
    """Show what NAME becomes with its parts and variables."""
    show_value(invocation, ask(invocation, "composition:compose", name=name, variables=values(variables)))


@composition.command()
@click.argument("target", required=False, metavar="[NAME|FILE]")
@click.pass_obj
def check(invocation: Invocation, target: str | None) -> None:
    """Say what is wrong, with file and line: in all files, in one composition, or in FILE before it is in its place."""
    checked = ask(invocation, "composition:validate", {} if target is None else _asked(target))
    if invocation.json:
        show_value(invocation, checked)
    for problem in () if invocation.json else checked["problems"]:
        click.echo(f"{problem['file']}:{problem['line']}:{problem['column']}: {problem['message']}")
    if checked["problems"]:
        sys.exit(EXIT_EVENT_ERROR)
    invocation.say(f"{checked['files']} files, nothing is wrong")


@composition.command("import")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|DIR")
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="Not into the home's folder profiles/.")
@click.option("--replace", is_flag=True, help="Write over files that are there.")
@click.option("--dry-run", is_flag=True, help="Write nothing, and say what would come of it.")
@click.pass_obj
def import_original(invocation: Invocation, path: Path, to: Path | None, replace: bool, dry_run: bool) -> None:
    """Bring profiles and prompts of the original KSI here; says of each field what became of it, with its line."""
    from ksi.cli.original import Import  # YAML, for this command alone

    importing = Import(invocation, path, to or invocation.home.path / "profiles", replace=replace, writes=not dry_run)
    importing.run()
    importing.show()
    if importing.failed:
        sys.exit(EXIT_EVENT_ERROR)


def values(given_values: Sequence[str]) -> dict[str, Any]:
    """``tone=dry`` as a text, ``count:=3`` as JSON. Raises click.UsageError."""
    found: dict[str, Any] = {}
    for each in given_values:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{each!r} is no variable: write name=value")
        found[name.removesuffix(":")] = _json(each, text) if name.endswith(":") else text
    return found


def _json(each: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{each!r} needs JSON behind := ({error})") from None


def _asked(target: str) -> dict[str, str]:
    path = Path(target)
    if path.suffix not in (".yaml", ".yml"):
        return {"name": target}
    try:
        return {"name": path.stem, "text": path.read_text()}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{target} can not be read: {error}") from None


def _cells(shown: Record) -> tuple[str, ...]:
    problem = shown["problem"]
    said = shown["description"] if problem is None else f"line {problem['line']}: {problem['message']}"
    return shown["name"], shown["kind"], shown["source"], said
