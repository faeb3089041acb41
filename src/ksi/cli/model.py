"""``ksi model``: the models that are here."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value, size
from ksi.cli.reach import ask
from ksi.providers.model import PROVIDER, SMOLLM2, ModelStore


@family()
def model() -> None:
    """Install, list and stop models."""


@model.command()
@click.pass_obj
def install(invocation: Invocation) -> None:
    """Bring the embedded model here, once for all homes. No daemon is needed, and no network where it is here."""
    path = ModelStore().install()
    found = {"name": SMOLLM2.name, "path": str(path), "sha256": SMOLLM2.sha256, "size_bytes": SMOLLM2.size_bytes}
    if invocation.json:
        show_value(invocation, found)
    else:
        click.echo(f"{SMOLLM2.name} is in {path}")


@model.command("list")
@click.pass_obj
def list_models(invocation: Invocation) -> None:
    """List the models that the daemon's providers offer."""
    models = ask(invocation, "model:list")["models"]
    if not any(found["provider"] == PROVIDER for found in models):
        invocation.say(f"{SMOLLM2.name} is not here: ksi model install")
    show_table(invocation, models, ("NAME", "PROVIDER", "SIZE", "SHA256"), _cells)


@model.command()
@click.argument("provider", default=PROVIDER)
@click.pass_obj
def stop(invocation: Invocation, provider: str) -> None:
    """Stop the process of a model that runs here; the next completion starts it again."""
    show_value(invocation, ask(invocation, "model:stop", provider=provider))


def _cells(found: Record) -> tuple[str, ...]:
    size_bytes = found.get("size_bytes")
    return (
        found["name"],
        found["provider"],
        size(size_bytes) if size_bytes else "",
        (found.get("sha256") or "")[:16],
    )
