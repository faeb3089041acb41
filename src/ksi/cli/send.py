"""``ksi send``: any event, with its payload from the command line."""

from __future__ import annotations

from typing import Any

import click

from ksi.cli.arguments import EVENT_NAME, FIELD, payload
from ksi.cli.complete import given
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import json_line, show_value
from ksi.cli.reach import accept, ask, stream
from ksi.client.client import Options


@command()
@click.argument("event", type=EVENT_NAME)
@click.argument("fields", nargs=-1, type=FIELD)
@click.option("--detach", is_flag=True, help="Do not wait: print the run's id once the request is on disk.")
@click.option("--stream", "whole_frames", is_flag=True, help="Print each chunk with its number and address.")
@click.option("--end", "end_only", is_flag=True, help="Print the end value only, without chunks.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait for the answer.")
@click.option("--subject", metavar="NAME", help="Whose personal data this is: `ksi erase NAME` erases it.")
@click.option("--event-id", metavar="UUID", help="Send it again under the same id: it is done once.")
@click.pass_obj
def send(
    invocation: Invocation,
    /,
    event: str,
    fields: tuple[str, ...],
    detach: bool,
    whole_frames: bool,
    end_only: bool,
    **options: Any,
) -> None:
    """Send an event and print its answer; where the event streams, its chunks as they come, then its end value.

    \b
    key=text        a text
    key:=json       any JSON, as in size:=3 or tags:='["a"]'
    key=@file       a text from a file; key:=@file JSON; @- is stdin
    """  # noqa: D301  # click looks for the character itself
    if detach + whole_frames + end_only > 1:
        raise click.UsageError("only one of --detach, --stream and --end")
    asked, said = Options(**given(options)), payload(fields)
    if detach:
        show_value(invocation, accept(invocation, event, said, asked))
    elif end_only:
        show_value(invocation, ask(invocation, event, said, options=asked))
    else:
        _show_stream(invocation, event, said, asked, whole_frames=whole_frames)


def _show_stream(
    invocation: Invocation, event: str, said: dict[str, Any], asked: Options, *, whole_frames: bool
) -> None:
    def show(chunk: Any, at: str | None) -> None:
        click.echo(json_line({"at": at, "data": chunk} if whole_frames else chunk))

    ending = stream(invocation, event, said, show, asked)
    if whole_frames:
        click.echo(json_line({"end": True, "data": ending.value}))
    else:
        show_value(invocation, ending.value)
    ending.exit_if_interrupted()
