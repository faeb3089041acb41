"""``ksi completion``: the script by which a shell completes commands, events and their fields."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ksi.cli.invocation import command

SHELLS = ("bash", "zsh", "fish")


@command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script of the shell's completion; for bash: eval "$(ksi completion bash)".

    Names of events come from the list that `ksi start` and `ksi events` keep in the home.
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that the argument offers"
    root = context.find_root()
    click.echo(kind(root.command, {}, "ksi", "_KSI_COMPLETE").source())
