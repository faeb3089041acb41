"""``ksi providers``: who can be asked for answers."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, show_table
from ksi.cli.reach import ask

COLUMNS = ("NAME", "USED", "RUNNING", "WAITING", "RESTS", "TOKENS", "DOLLARS", "MODELS")


@command()
@click.pass_obj
def providers(invocation: Invocation) -> None:
    """List who can be asked for answers, how busy they are, and what they took since the daemon's start."""
    show_table(invocation, ask(invocation, "provider:list")["providers"], COLUMNS, _cells)


def _cells(shown: Record) -> tuple[str, ...]:
    return (
        shown["name"],
        _use(shown),
        str(shown["running"]),
        str(shown["waiting"]),
        f"{shown['rests']:g} s" if shown["rests"] else "",
        str(shown["input_tokens"] + shown["output_tokens"]),
        f"{shown['cost']:.4f}",
        ", ".join(shown["models"]),
    )


def _use(shown: Record) -> str:
    """When it is asked where nobody names it."""
    if shown["is_default"]:
        return "by default"
    if shown["failover"] is not None:
        return f"failover {shown['failover']}"
    return "" if shown["is_configured"] else "not set up"
