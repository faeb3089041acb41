"""``ksi message``: topics that one follows, queues that one takes from."""

from __future__ import annotations

from typing import Any

import click

from ksi.cli.arguments import FIELD, payload
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, json_line, show_table, show_value
from ksi.cli.reach import ask, stream


@family()
def message() -> None:
    """Publish and follow topics; leave messages in queues and take them out."""


@message.command()
@click.argument("topic")
@click.argument("fields", nargs=-1, type=FIELD)
@click.pass_obj
def publish(invocation: Invocation, topic: str, fields: tuple[str, ...]) -> None:
    """Say FIELDS (key=text, key:=json) to all who follow TOPIC, now or later."""
    show_value(invocation, ask(invocation, "message:publish", topic=topic, data=payload(fields)))


@message.command()
@click.argument("topic")
@click.option("--after", help="start, end (the default), @POSITION; checkpoint where there is a subscriber.")
@click.option("--subscriber", metavar="NAME", help="Go on where NAME stopped, and remember its place.")
@click.pass_obj
def subscribe(invocation: Invocation, topic: str, after: str | None, subscriber: str | None) -> None:
    """Follow TOPIC (news.sea, news.*), one line of JSON a message, until Ctrl-C."""
    place = after or ("end" if subscriber is None else "checkpoint")
    asked = {"topic": topic, "after": place} | ({} if subscriber is None else {"subscriber": subscriber})

    def show(chunk: Any, at: str | None) -> None:
        click.echo(json_line(chunk))

    stream(invocation, "message:subscribe", asked, show).exit_if_interrupted()


@message.command()
@click.argument("queue")
@click.argument("fields", nargs=-1, type=FIELD)
@click.option("--ttl", type=click.FloatRange(0, min_open=True), help="Seconds that it waits; a day by default.")
@click.pass_obj
def queue(invocation: Invocation, queue: str, fields: tuple[str, ...], ttl: float | None) -> None:
    """Leave FIELDS in QUEUE for one taker."""
    asked = {"queue": queue, "data": payload(fields)} | ({} if ttl is None else {"ttl": ttl})
    show_value(invocation, ask(invocation, "message:queue", asked))


@message.command()
@click.argument("queue")
@click.option("--limit", type=click.IntRange(1, 100), default=1, show_default=True)
@click.pass_obj
def take(invocation: Invocation, queue: str, limit: int) -> None:
    """Take the oldest messages out of QUEUE."""
    show_value(invocation, ask(invocation, "message:take", queue=queue, limit=limit))


@message.command()
@click.pass_obj
def queues(invocation: Invocation) -> None:
    """List the queues, and how many messages wait in each."""
    show_table(invocation, ask(invocation, "message:queues")["queues"], ("QUEUE", "WAITING", "LAST"), _cells)


def _cells(shown: Record) -> tuple[str, ...]:
    return (shown["queue"], str(shown["waiting"]), str(shown["last"]))
