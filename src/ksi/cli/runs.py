"""``ksi runs``: what ran, and how it ended."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, duration, short, show_table, time_of
from ksi.cli.reach import ask

STATUSES = ("open", "ok", "error", "interrupted", "cancelled")


@command()
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that ended so, or are open.")
@click.pass_obj
def runs(invocation: Invocation, limit: int, status: str | None) -> None:
    """List what ran, the newest last, and how it ended.

    A run is a request with all that it caused. Those that are open, or were interrupted, have no end yet.
    """
    columns = ("RUN", "STARTED", "STATUS", "DURATION", "EVENTS", "TOKENS", "NAME")
    found = newest_runs(invocation, limit, status)
    ids = [run["run"] for run in found]
    heads = dict(zip(ids, short(ids), strict=True))
    show_table(invocation, found, columns, lambda run: (heads[run["run"]], *_cells(run)))


def newest_runs(invocation: Invocation, limit: int, status: str | None = None) -> list[Record]:
    """The newest runs, oldest of them first."""
    found: list[Record] = []
    page: Record = {"next": None}
    while len(found) < limit:
        page = ask(invocation, "correlation:runs", limit=limit - len(found), after=page["next"], status=status)
        found += page["runs"]
        if page["next"] is None:
            break
    return found[::-1]


def _cells(run: Record) -> tuple[str, ...]:
    return (
        time_of(run["started_at"]),
        run["status"],
        duration(run.get("duration_ms")),
        str(run["events"]),
        str(run.get("tokens") or ""),
        run["name"],
    )
