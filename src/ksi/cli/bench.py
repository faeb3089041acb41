"""``ksi bench``: the way to the benchmarks, which know their own arguments."""

from __future__ import annotations

import click

from ksi.cli.invocation import Invocation, command


@command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Measure the speed, beside its floors and peers."""
    from ksi.bench.main import main  # its peers are an extra

    invocation = context.ensure_object(Invocation)
    context.exit(main(["--json", *arguments] if invocation.json_given else list(arguments)))
