"""``ksi approvals``, ``approve``, ``deny`` and ``permission``: who may do what, and who waits for a word."""

from __future__ import annotations

import click

from ksi.cli.arguments import EVENT_NAME
from ksi.cli.invocation import Invocation, command, family
from ksi.cli.output import Record, show_table, show_value, time_of
from ksi.cli.reach import ask


@command()
@click.pass_obj
def approvals(invocation: Invocation) -> None:
    """List the requests that wait for somebody's word."""
    columns = ("ID", "EVENT", "PRINCIPAL", "ASKED", "RULE")
    show_table(invocation, ask(invocation, "permission:pending")["requests"], columns, _cells)


@command()
@click.argument("id")
@click.option("--why", default="", help="A word for those who read the log.")
@click.pass_obj
def approve(invocation: Invocation, id: str, why: str) -> None:
    """Let a request run that waits, once. ID: the beginning of its id is enough."""
    show_value(invocation, ask(invocation, "permission:approve", id=id, why=why))


@command()
@click.argument("id")
@click.option("--why", default="", help="A word for who asked, and for those who read the log.")
@click.pass_obj
def deny(invocation: Invocation, id: str, why: str) -> None:
    """End a request that waits."""
    show_value(invocation, ask(invocation, "permission:deny", id=id, why=why))


@family()
def permission() -> None:
    """Show, check, grant and revoke rights."""


@permission.command()
@click.argument("principal", required=False)
@click.pass_obj
def show(invocation: Invocation, principal: str | None) -> None:
    """Show the profile, the grants and the limits of a principal; your own where nobody is named."""
    show_value(invocation, ask(invocation, "permission:show", {} if principal is None else {"principal": principal}))


@permission.command()
@click.argument("event", type=EVENT_NAME)
@click.argument("principal", required=False)
@click.pass_obj
def check(invocation: Invocation, event: str, principal: str | None) -> int:
    """Say whether a principal may ask for an event, and which rule decides. Exit code 1: it may not."""
    asked = {"event": event} | ({} if principal is None else {"principal": principal})
    found: Record = ask(invocation, "permission:check", asked)
    show_value(invocation, found)
    return 0 if found["allowed"] else 1


@permission.command()
@click.argument("principal")
@click.option("--allow", multiple=True, metavar="PATTERN", help="Events that it may ask for.")
@click.option("--ask", "asked", multiple=True, metavar="PATTERN", help="Events that wait for somebody's word.")
@click.option("--deny", multiple=True, metavar="PATTERN", help="Events that it may not ask for, whatever else allows.")
@click.pass_obj
def grant(
    invocation: Invocation, principal: str, allow: tuple[str, ...], asked: tuple[str, ...], deny: tuple[str, ...]
) -> None:
    """Give a principal rights beside its profile; they count at once, and after a restart."""
    given = {"principal": principal, "allow": allow, "ask": asked, "deny": deny}
    show_value(invocation, ask(invocation, "permission:grant", given))


@permission.command()
@click.argument("principal")
@click.pass_obj
def revoke(invocation: Invocation, principal: str) -> None:
    """Take back all that a principal was granted."""
    show_value(invocation, ask(invocation, "permission:revoke", principal=principal))


@permission.command()
@click.argument("principal")
@click.argument("profile", required=False)
@click.pass_obj
def assign(invocation: Invocation, principal: str, profile: str | None) -> None:
    """Give a principal a profile, as the configuration does for others; without PROFILE, the one that it had before."""
    show_value(invocation, ask(invocation, "permission:assign", principal=principal, profile=profile))


def _cells(waiting: Record) -> tuple[str, ...]:
    return (
        waiting["event_id"][:13],
        waiting["event"],
        waiting["principal"],
        time_of(waiting["asked_at"]),
        waiting["rule"],
    )
