"""``ksi agent``: agents, and the tools that they may call."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ksi.cli.arguments import EVENT_NAME
from ksi.cli.complete import given
from ksi.cli.composition import values
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_table, show_value, time_of
from ksi.cli.reach import ask


@family()
def agent() -> None:
    """Spawn, list, pause, restart and end agents. Talk with one: ksi chat --agent NAME."""


@agent.command()
@click.argument("name")
@click.option("--profile", help="The composition that it is made of: ksi composition list.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Of the profile; may be repeated.")
@click.option("--system", help="What it is told first.")
@click.option("--model", help="Which model answers for it.")
@click.option("--provider", help="Which provider.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of each answer, where a message says nothing else.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 is the likeliest answer.")
@click.option("--restarts", type=click.IntRange(0), help="Turns that may fail one after another.")
@click.option("--permission", metavar="PROFILE", help="Its rights: ksi send permission:list_profiles.")
@click.option("--tool", "tools", multiple=True, type=EVENT_NAME, help="An event that it may ask for; may be repeated.")
@click.option("--max-steps", type=click.IntRange(1, 100), help="How often its model is asked in one turn.")
@click.option("--ask-timeout", type=click.FloatRange(0, min_open=True), help="Seconds that a tool waits for a word.")
@click.pass_obj
def spawn(
    invocation: Invocation, /, name: str, tools: Sequence[str], variables: Sequence[str], **options: object
) -> None:
    """Give an agent a name, and say what it is: by a profile, or by options, which count more."""
    said = {"agent": name, "tools": tools or None, "variables": values(variables) or None} | options
    show_value(invocation, ask(invocation, "agent:spawn", given(said)))


@agent.command("list")
@click.pass_obj
def list_agents(invocation: Invocation) -> None:
    """List agents, with what they have used."""
    columns = ("AGENT", "PROFILE", "STATUS", "TURNS", "TOOL CALLS", "TOKENS", "UPDATED", "TOOLS")
    show_table(invocation, ask(invocation, "agent:list")["agents"], columns, _cells)


@agent.command()
@click.argument("name")
@click.pass_obj
def terminate(invocation: Invocation, name: str) -> None:
    """End an agent: its turns are cancelled, and it takes no more."""
    show_value(invocation, ask(invocation, "agent:terminate", agent=name))


@agent.command()
@click.argument("name")
@click.pass_obj
def pause(invocation: Invocation, name: str) -> None:
    """Have an agent take no messages until it is resumed."""
    show_value(invocation, ask(invocation, "agent:pause", agent=name))


@agent.command()
@click.argument("name")
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Take an agent back that was paused, or has failed."""
    show_value(invocation, ask(invocation, "agent:resume", agent=name))


@agent.command()
@click.argument("name")
@click.option("--fresh", is_flag=True, help="In a new conversation.")
@click.pass_obj
def restart(invocation: Invocation, name: str, fresh: bool) -> None:
    """Begin an agent again: its turns are cancelled, its profile counts as it is written now."""
    show_value(invocation, ask(invocation, "agent:restart", agent=name, fresh=fresh))


@agent.command()
@click.argument("text")
@click.option("--to", "agents", multiple=True, metavar="NAME", help="Only these; may be repeated.")
@click.option("--from", "sender", metavar="NAME", help="Who says it.")
@click.pass_obj
def broadcast(invocation: Invocation, text: str, agents: Sequence[str], sender: str | None) -> None:
    """Say TEXT to all agents that are idle; nobody waits for their answers."""
    said = {"text": text, "agents": agents, "from": sender}
    show_value(invocation, ask(invocation, "agent:broadcast", given(said)))


def _cells(shown: Record) -> tuple[str, ...]:
    return (
        shown["agent"],
        shown["profile"] or "",
        shown["status"],
        str(shown["turns"]),
        str(shown["tool_calls"]),
        str(shown["input_tokens"] + shown["output_tokens"]),
        time_of(shown["updated_at"]),
        " ".join(shown["tools"]),
    )
