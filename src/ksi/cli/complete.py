"""``ksi complete`` and ``ksi resume``: the text of a model, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import click

from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, json_line
from ksi.cli.reach import Ending, stream


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``completion:create`` that a model understands."""
    for option in (
        click.option("--seed", type=int, help="The same seed, the same answer, where the model can."),
        click.option("--temperature", type=click.FloatRange(0, 2), help="0 is the likeliest answer."),
        click.option("--max-tokens", type=click.IntRange(1), help="Stop after so many."),
        click.option("--system", metavar="TEXT", help="What the model is told first."),
        click.option("--model", metavar="NAME", help="As `ksi model list` names it."),
        click.option("--provider", metavar="NAME", help="As `ksi providers` names it; then nobody stands in for it."),
    ):
        function = option(function)
    return function


@command()
@click.argument("prompt", required=False)
@click.option("--conversation", metavar="NAME", help="Go on with this conversation, or begin it.")
@sampling_options
@click.pass_obj
def complete(invocation: Invocation, /, prompt: str | None, **options: Any) -> None:
    """Complete PROMPT, or what comes on stdin, token by token. Ctrl-C stops the answer and keeps it.

    The answer is text, in a pipe too; --json gives its tokens with their addresses in the log.
    """
    text = sys.stdin.read() if prompt in (None, "-") else prompt
    if not text:
        raise click.UsageError("a prompt is needed")
    show_answer(invocation, "completion:create", {"prompt": text} | given(options)).exit_if_interrupted()


@command()
@click.argument("run", metavar="RUN|last")
@click.option("--max-tokens", type=click.IntRange(1), help="Stop after so many more.")
@click.pass_obj
def resume(invocation: Invocation, run: str, max_tokens: int | None) -> None:
    """Go on with an interrupted completion, after the last token that is in the log."""
    show_answer(invocation, "completion:resume", {"run": run} | given({"max_tokens": max_tokens})).exit_if_interrupted()


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def show_answer(invocation: Invocation, event: str, data: Mapping[str, Any]) -> Ending:
    """Stream ``event`` and write its text as it comes; with ``--json`` a line for each chunk and one for the end."""
    began = monotonic()
    ending = stream(invocation, event, data, _as_json if invocation.json_given else _as_text)
    if invocation.json_given:
        click.echo(json_line({"end": True, "data": ending.value}))
        return ending
    click.echo()
    if sys.stdout.isatty():
        invocation.say(click.style(summary(ending.value or {}, monotonic() - began), dim=True))
    return ending


def summary(end: Record, seconds: float) -> str:
    """What it took: ``45 tokens in 1.8 s (25/s) · smollm2 (local) · stop · run 0199…``."""
    usage = end.get("usage") or {}
    tokens = usage.get("output_tokens")
    cost = end.get("cost")
    parts = [
        f"{tokens} tokens in {seconds:.1f} s ({tokens / seconds:.0f}/s)" if tokens and seconds > 0 else "",
        f"{end['model']} ({end.get('provider')})" if end.get("model") else "",
        end.get("finish_reason") or "",
        f"${cost:.4f}" if cost else "",
        f"run {end['run']}" if end.get("run") else "",
    ]
    return " · ".join(filter(None, parts))


def _as_text(chunk: Record, _: str | None) -> None:
    sys.stdout.write(chunk.get("text") or "")
    sys.stdout.flush()


def _as_json(chunk: Record, at: str | None) -> None:
    click.echo(json_line({"at": at, "data": chunk}))
