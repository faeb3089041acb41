"""``ksi top``: what happens, as it happens."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, command
from ksi.core.errors import UnsupportedError


@command()
@click.argument("pattern", required=False, default="*")
@click.pass_obj
def top(invocation: Invocation, pattern: str) -> None:
    """Watch events, agents, streaming tokens, budgets and health.

    PATTERN is an event's name with * in it; agent: means all of a namespace. q leaves.
    """
    try:
        from ksi.cli.board import Board  # textual is an extra, and takes a third of a second to import
    except ModuleNotFoundError:
        raise UnsupportedError("ksi top needs the extra tui: pip install 'ksi[tui]'") from None
    Board(invocation.home.path, branch=invocation.branch, pattern=pattern).run()
