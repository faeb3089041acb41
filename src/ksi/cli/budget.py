"""``ksi budget``: hard caps on tokens and money."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value
from ksi.cli.reach import ask

SCOPES = "all, principal:uid:1000, agent:NAME, conversation:ID, provider:NAME"


@family()
def budget() -> None:
    """Cap tokens and money. A call that might go over a cap is not made."""


@budget.command("set")
@click.argument("scope")
@click.option("--tokens", type=click.IntRange(0), help="Tokens read and written, at most.")
@click.option("--cost", type=click.FloatRange(0), help="Dollars, at most.")
@click.option("--per-day", is_flag=True, help="Anew each day (UTC); else once for all.")
@click.pass_obj
def set_budget(invocation: Invocation, scope: str, tokens: int | None, cost: float | None, per_day: bool) -> None:
    """Cap a scope: all, principal:uid:1000, agent:NAME, conversation:ID or provider:NAME."""
    if tokens is None and cost is None:
        raise click.UsageError("give --tokens, --cost or both")
    caps = {name: value for name, value in (("tokens", tokens), ("cost", cost)) if value is not None}
    period = "day" if per_day else "total"
    show_value(invocation, ask(invocation, "budget:set", {"scope": scope, "period": period} | caps))


@budget.command("list")
@click.pass_obj
def list_budgets(invocation: Invocation) -> None:
    """List the caps, and how much of each is spent and held by calls under way."""
    columns = ("SCOPE", "PERIOD", "TOKENS", "SPENT", "HELD", "DOLLARS", "SPENT", "HELD")
    show_table(invocation, ask(invocation, "budget:list")["budgets"], columns, _cells)


@budget.command()
@click.argument("scope")
@click.pass_obj
def remove(invocation: Invocation, scope: str) -> None:
    """Cap a scope no more."""
    show_value(invocation, ask(invocation, "budget:remove", scope=scope))


def _cells(shown: Record) -> tuple[str, ...]:
    return (
        shown["scope"],
        shown["period"],
        *(_number(shown[name]) for name in ("tokens", "tokens_spent", "tokens_held")),
        *(_money(shown[name]) for name in ("cost", "cost_spent", "cost_held")),
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
