"""``ksi conversation``: what was said with models and agents."""

from __future__ import annotations

from typing import Any

import click

from ksi.cli.arguments import POSITION
from ksi.cli.complete import given
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, fitted, show_records, show_table, show_value, time_of
from ksi.cli.reach import ask, stream


@family()
def conversation() -> None:
    """List, show, search, export and fork conversations."""


@conversation.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.pass_obj
def list_conversations(invocation: Invocation, limit: int) -> None:
    """List conversations, the last spoken one first."""
    found = ask(invocation, "conversation:list", limit=limit)["conversations"]
    show_table(invocation, found, ("CONVERSATION", "MESSAGES", "CUT OFF", "BEGAN", "LAST"), _cells)


@conversation.command()
@click.argument("name")
@click.option("--at", type=POSITION, help="As it stood at this position of the log.")
@click.pass_obj
def show(invocation: Invocation, name: str, at: int | None) -> None:
    """Show what was said."""
    _export(invocation, {"conversation": name, "format": "json" if invocation.json else "markdown"} | given({"at": at}))


@conversation.command()
@click.argument("text")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.pass_obj
def search(invocation: Invocation, text: str, limit: int) -> None:
    """Find messages that say TEXT, the newest first."""
    answer = ask(invocation, "conversation:search", text=text, limit=limit)
    show_records(invocation, answer["found"], _found_line)
    if not answer["complete"]:
        invocation.say("older messages were not looked at")


@conversation.command()
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["json", "markdown"]), default="json", show_default=True)
@click.option("--at", type=POSITION, help="As it stood at this position of the log.")
@click.pass_obj
def export(invocation: Invocation, name: str, form: str, at: int | None) -> None:
    """Write a conversation to stdout: a line of JSON for each message, or Markdown."""
    _export(invocation, {"conversation": name, "format": form} | given({"at": at}))


@conversation.command()
@click.argument("name")
@click.argument("into")
@click.option("--at", type=POSITION, help="From what was said up to this position of the log.")
@click.pass_obj
def fork(invocation: Invocation, name: str, into: str, at: int | None) -> None:
    """Go on from NAME in another conversation, INTO."""
    show_value(
        invocation, ask(invocation, "conversation:fork", {"conversation": name, "into": into} | given({"at": at}))
    )


def _export(invocation: Invocation, asked: dict[str, Any]) -> None:
    def write(chunk: Any, at: str | None) -> None:
        click.echo(chunk["text"])

    stream(invocation, "conversation:export", asked, write).exit_if_interrupted()


def _found_line(found: Record) -> str:
    excerpt = " ".join(found["excerpt"].split())
    return fitted(
        f"@{found['position']:<6} {time_of(found['said_at'])}  {found['conversation']}  {found['role']}: {excerpt}"
    )


def _cells(shown: Record) -> tuple[str, ...]:
    return (
        shown["conversation"],
        str(shown["messages"]),
        str(len(shown["partial"])),
        time_of(shown["started_at"]),
        time_of(shown["updated_at"]),
    )
