"""``ksi chat``: turns between a person and a model, or an agent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import click

from ksi.cli.complete import given, sampling_options, show_answer
from ksi.cli.invocation import Invocation, command
from ksi.cli.reach import Ending, ask
from ksi.core.errors import ConflictError, KSIError

_GOODBYES = ("/quit", "/exit", "/q")


@command()
@click.option("--agent", metavar="NAME", help="Talk with this agent; it is spawned where it is not there.")
@click.option("--profile", help="The composition that it is made of.  [the one with its name, if there is one]")
@click.option("--conversation", metavar="NAME", help="Go on with this conversation.")
@sampling_options
@click.pass_obj
def chat(
    invocation: Invocation, /, agent: str | None, profile: str | None, conversation: str | None, **options: Any
) -> None:
    """Talk with a model. Ctrl-C stops an answer and keeps it; Ctrl-D or /quit ends the chat.

    Where stdin is no terminal, each line of it is a turn.
    """
    if agent is not None:
        if conversation is not None or {"temperature", "seed"} & given(options).keys():
            raise click.UsageError("an agent has its own conversation, temperature and seed")
        _spawn(invocation, agent, profile, given(options))
        event, fields = "agent:send_message", {"agent": agent} | given({"max_tokens": options["max_tokens"]})
    else:
        if profile is not None:
            raise click.UsageError("a profile is an agent's: name one with --agent")
        name = conversation or f"chat-{token_hex(4)}"
        event, fields = "completion:create", {"conversation": name} | given(options)
        invocation.say(f"conversation {name}")
    for text in _turns():
        spoken = {"text": text} if agent is not None else {"prompt": text}
        _answer(invocation, event, fields | spoken)


def _turns() -> Iterator[str]:
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if is_terminal else "").strip()
        except EOFError:
            return
        if line in _GOODBYES:
            return
        if line:
            yield line


def _answer(invocation: Invocation, event: str, data: dict[str, Any]) -> Ending | None:
    try:
        return show_answer(invocation, event, data)
    except KSIError as error:
        if not invocation.is_interactive:
            raise
        click.echo()
        invocation.say(f"{error.message} [{error.code}]")  # the chat goes on
        return None


def _spawn(invocation: Invocation, agent: str, profile: str | None, options: dict[str, Any]) -> None:
    known = {name: options[name] for name in ("system", "model", "provider") if name in options}
    try:
        made_of = profile or _profile_named(invocation, agent)
        ask(invocation, "agent:spawn", {"agent": agent} | given({"profile": made_of}) | known)
    except ConflictError:
        invocation.say(f"agent {agent} is there already")


def _profile_named(invocation: Invocation, name: str) -> str | None:
    listed = ask(invocation, "composition:list", kind="agent")["compositions"]
    return name if any(each["name"] == name for each in listed) else None
