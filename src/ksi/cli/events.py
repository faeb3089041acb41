"""``ksi events``: what the daemon can do."""

from __future__ import annotations

import click

from ksi.cli.arguments import EVENT_NAME, remember_events
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, json_line, show_records, show_table
from ksi.cli.reach import described_events
from ksi.cli.schema import as_command, schema_lines
from ksi.core.errors import UnknownEventError


@command()
@click.argument("pattern", type=EVENT_NAME, required=False)
@click.pass_obj
def events(invocation: Invocation, pattern: str | None) -> None:
    """List what the daemon can do; with the name of an event, its schemas and examples."""
    found = described_events(invocation, pattern=pattern or "*")
    if pattern is None:
        remember_events(invocation, found)
    if pattern is not None and not found:
        raise UnknownEventError(pattern)
    if invocation.json:
        show_records(invocation, found, json_line)
    elif pattern == found[0]["name"]:
        _describe(found[0])
    else:
        show_table(invocation, found, ("NAME", "KIND", "SUMMARY"), lambda e: (e["name"], e["kind"], e["summary"]))


def _describe(event: Record) -> None:
    click.secho(event["name"], bold=True, nl=False)
    click.echo(f"  {', '.join(_facts(event))}")
    if event["doc"]:
        click.echo(f"\n{event['doc']}")
    for title in ("request", "chunk", "answer"):
        if event.get(title):
            click.secho(f"\n{title.title()}", bold=True)
            for line in schema_lines(event[title]):
                click.echo(f"  {line}")
    if event.get("examples"):
        click.secho("\nExamples", bold=True)
        for example in event["examples"]:
            click.echo(f"  {as_command(event['name'], example)}")


def _facts(event: Record) -> list[str]:
    facts = [event["kind"], f"durability {event['durability']}", f"plugin {event['plugin']}"]
    if event.get("key"):
        facts.append("one after another for each key")
    if event.get("timeout_s"):
        facts.append(f"at most {event['timeout_s']:g} s")
    return facts
