"""``ksi log``: what the log holds, as lines, as trees of causes, or as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import click
import msgspec

from ksi.cli.arguments import MOMENT, POSITION
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, fitted, json_line, show_records, time_of
from ksi.cli.reach import ask, taken
from ksi.cli.reach import run as run_client
from ksi.cli.runs import newest_runs
from ksi.cli.tree import tree_lines
from ksi.client.client import EventClient
from ksi.client.streams import EventStream
from ksi.core.patterns import matches

PAGE_SIZE = 500
NEWEST = 50
TREES = 10
KINDS = ("fact", "request", "outcome", "chunk")


class Wanted(msgspec.Struct, kw_only=True):
    """Which events: the fields of ``log:read``, and how many."""

    pattern: str | None
    kinds: tuple[str, ...]
    after: int | None
    until: int | None
    since_us: int | None
    stream: str | None
    correlation_id: str | None
    limit: int | None

    @property
    def has_start(self) -> bool:
        return self.after is not None or self.since_us is not None

    def fields(self, **more: Any) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in self.__struct_fields__ if name != "limit"}
        return {name: value for name, value in (said | more).items() if value not in (None, ())}

    @property
    def subscription(self) -> dict[str, Any]:
        """The fields of ``event:subscribe``."""
        return {"pattern": "*"} | {
            name: value for name, value in self.fields().items() if name in ("pattern", "kinds", "correlation_id")
        }


@command()
@click.argument("pattern", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as events come.")
@click.option("--tree", "as_tree", is_flag=True, help="The causes: each event below what made it happen.")
@click.option("--since", "since_us", type=MOMENT, help="Of the last 5m, 2h, 1d, or since a moment.")
@click.option("--after", type=POSITION, help="Behind this position.")
@click.option("--until", type=POSITION, help="Up to this position.")
@click.option("--stream", metavar="ENTITY", help="Of one entity, as conversation/c1.")
@click.option("--run", metavar="RUN", help="Of one run: an id, the head of one, or last.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice([*KINDS, "all"]), help="Default: fact.")
@click.option("-n", "--limit", type=click.IntRange(1), help=f"At most so many. Default: the newest {NEWEST}.")
@click.pass_obj
def log(
    invocation: Invocation, /, follow: bool, as_tree: bool, run: str | None, limit: int | None, **options: Any
) -> None:
    """Read the log, oldest first.

    PATTERN is an event's name with * in it; agent: means all of a namespace.
    """
    if follow and (as_tree or options["until"] is not None):
        raise click.UsageError("--follow has no end, and shows no trees: leave out --until and --tree")
    if as_tree and any(options.values()):
        raise click.UsageError("--tree shows whole runs: of the rest only --run and --limit go with it")
    options["kinds"] = KINDS if "all" in options["kinds"] else options["kinds"]
    wanted = Wanted(limit=limit, correlation_id=run, **options)
    if as_tree:
        _show_trees(invocation, run, limit or TREES)
        return
    run_client(invocation, lambda client: _show_events(invocation, client, wanted, follow=follow))


def event_line(event: Record) -> str:
    """An event in one line: place, time, name, entity, data."""
    kind = "" if event["kind"] == "fact" else f" ({event['kind']})"
    place = f"{event['stream']}@{event['version']}"
    when = time_of(event["recorded_at"])
    return fitted(f"@{event['position']:<6} {when}  {event['name']}{kind}  {place}  {json_line(event['data'])}")


async def _show_events(invocation: Invocation, client: EventClient, wanted: Wanted, *, follow: bool) -> None:
    # Before the first read, so that nothing falls between it and the subscription.
    last = (await client.request("system:health"))["head"] if follow else 0
    events = _onward(client, wanted) if wanted.has_start else _newest(client, wanted)
    async for event in events:
        show_records(invocation, [event], event_line)
        last = max(last, event["position"])
    if follow:
        start = f"@{last}" if last else "start"
        await _follow(invocation, client.subscribe(after=start, **wanted.subscription), wanted.stream)


async def _onward(client: EventClient, wanted: Wanted) -> AsyncIterator[Record]:
    """From the start that is wanted."""
    left, after = wanted.limit, wanted.after
    while left is None or left > 0:
        page = await client.request("log:read", wanted.fields(after=after, limit=min(left or PAGE_SIZE, PAGE_SIZE)))
        for event in page["events"]:
            yield event
        after = page["next"]
        if after is None:
            return
        left = None if left is None else left - len(page["events"])


async def _newest(client: EventClient, wanted: Wanted) -> AsyncIterator[Record]:
    """Read backwards, and turned around."""
    found: list[Record] = []
    limit, until = wanted.limit or NEWEST, wanted.until
    while len(found) < limit:
        size = min(limit - len(found), PAGE_SIZE)
        page = await client.request("log:read", wanted.fields(until=until, limit=size, backwards=True))
        found += page["events"]
        until = page["next"]
        if until is None:
            break
    for event in reversed(found):
        yield event


async def _follow(invocation: Invocation, events: EventStream, entity: str | None) -> None:
    def show(event: Record, _: str | None) -> None:
        if entity is None or matches(entity, event["stream"]):  # a subscription knows names, not entities
            show_records(invocation, [event], event_line)

    (await taken(events, show)).exit_if_interrupted()


def _show_trees(invocation: Invocation, run: str | None, limit: int) -> None:
    if run is not None:
        runs = [{"run": run}]
    else:
        runs = newest_runs(invocation, limit)
    for number, found in enumerate(runs):
        answer = ask(invocation, "correlation:tree", run=found["run"])
        if number and not invocation.json:
            click.echo()
        show_tree(invocation, answer, found.get("started_at"))


def show_tree(invocation: Invocation, answer: Record, started_at: str | None = None) -> None:
    """An answer of ``correlation:tree``."""
    if invocation.json:
        click.echo(json_line(answer))
        return
    click.secho("  ".join(filter(None, (f"run {answer['run']}", time_of(started_at), _trace(answer)))), bold=True)
    for line in tree_lines(answer["tree"]):
        click.echo(fitted(line))


def _trace(answer: Record) -> str:
    """Its trace, where that is another one than the run."""
    trace_id = answer["trace_id"]
    return "" if trace_id == answer["run"].replace("-", "") else f"trace {trace_id}"
