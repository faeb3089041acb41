"""``ksi start|stop|restart|status``: the daemon in the background."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from time import monotonic

import click

from ksi.cli.arguments import remember_events
from ksi.cli.invocation import Invocation, command
from ksi.cli.output import Record, duration, json_line, show_value, size
from ksi.cli.output import status as coloured
from ksi.cli.reach import (
    LOOK,
    UnresponsiveError,
    ask,
    daemon_pid,
    described_events,
    http_url,
    run,
    start_here,
    wait_for_http,
)
from ksi.cli.serve import daemon_arguments, daemon_options, settings_of
from ksi.client.client import EventClient
from ksi.core.config import Config, HttpSection, load
from ksi.core.errors import CapacityError, KSIConnectionError, KSITimeoutError, LapseError
from ksi.core.result import Success

STOP_TIMEOUT = 60.0
ANSWER_TIMEOUT = 5.0
"""Seconds for the answer to `system:shutdown`, which comes before the drain."""
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=STOP_TIMEOUT,
    show_default=True,
    help="Seconds to wait for its end.",
)


@command()
@daemon_options
@click.pass_obj
def start(invocation: Invocation, plugins: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Start the daemon in the background; its words go to logs/ in the home."""
    config = _check(invocation, settings)
    health = _health(invocation)
    if health is None:
        health = _start(invocation, plugins, settings, config.http)
    else:
        invocation.say(f"the daemon runs already in {invocation.home.path}")
        if plugins or settings:
            raise click.UsageError("--plugin and --set are for a daemon that starts: ksi restart")
    _show(invocation, health)


@command()
@_timeout
@click.pass_obj
def stop(invocation: Invocation, timeout: float) -> None:
    """Stop the daemon. What is under way may finish; without a daemon there is nothing to do."""
    pid = _stop(invocation, timeout)
    if pid is None:
        invocation.say(f"no daemon runs in {invocation.home.path}")
    if invocation.json:
        show_value(invocation, {"stopped": pid})
    elif pid is not None:
        click.echo(f"stopped (pid {pid})")


@command()
@_timeout
@daemon_options
@click.pass_obj
def restart(invocation: Invocation, timeout: float, plugins: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Stop the daemon, if it runs, and start it."""
    config = _check(invocation, settings)  # before anything stops
    _stop(invocation, timeout)
    _show(invocation, _start(invocation, plugins, settings, config.http))


@command()
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Say how the daemon is. Exit code 3 where none runs, or it does not answer."""
    health = run(invocation, _looked, may_start=False, within=LOOK)
    _show(invocation, health | {"http": http_url(invocation.home, health["pid"])})


async def _looked(client: EventClient) -> Record:
    """Health, and the numbers of requests for whoever may see them."""
    health: Record = await client.request("system:health")
    match await client.try_request("system:metrics"):
        case Success(metrics):
            health["requests"] = {name: metrics[name] for name in ("calls", "errors")}
    return health


def _check(invocation: Invocation, settings: Sequence[str]) -> Config:
    """What is wrong in the configuration is better said here than in the log of a daemon that does not start."""
    return load(invocation.home, os.environ, settings_of(settings))


def _start(invocation: Invocation, plugins: Sequence[str], settings: Sequence[str], http: HttpSection) -> Record:
    start_here(invocation, daemon_arguments(plugins, settings))
    remember_events(invocation, described_events(invocation))
    health: Record = ask(invocation, "system:health")
    if http.enabled:
        health["http"] = _http(invocation, health["pid"])
    return health


def _http(invocation: Invocation, pid: int) -> str | None:
    """Where it listens; where it does not, that is said, and the daemon serves its Unix socket."""
    try:
        return wait_for_http(invocation.home, pid)
    except KSIConnectionError as error:
        invocation.say(error.message)
        return None


def _health(invocation: Invocation) -> Record | None:
    try:
        health: Record = ask(invocation, "system:health", may_start=False, within=LOOK)
    except UnresponsiveError:
        raise
    except KSIConnectionError:
        return None
    return health


def _stop(invocation: Invocation, timeout: float) -> int | None:
    """The process id of the daemon that this stopped."""
    pid = daemon_pid(invocation.home)
    if pid is None:
        return None
    until = monotonic() + timeout
    # A descriptor, not the number: the number may be another's before we look again.
    process = os.pidfd_open(pid)
    try:
        _ask_to_stop(invocation, process, min(timeout / 2, ANSWER_TIMEOUT))
        if not select.select([process], [], [], max(0.0, until - monotonic()))[0]:
            raise KSITimeoutError(f"pid {pid} runs still after {timeout:g} s; `kill -9 {pid}` loses nothing recorded")
    finally:
        os.close(process)
    return pid


def _ask_to_stop(invocation: Invocation, process: int, within: float) -> None:
    try:
        ask(invocation, "system:shutdown", may_start=False, within=within)
    except (CapacityError, KSIConnectionError, LapseError) as error:
        # A request has to be recorded, which a full disk forbids, and answered; a signal has not.
        invocation.say(f"{error.message}: sending SIGTERM")
        signal.pidfd_send_signal(process, signal.SIGTERM)


def _show(invocation: Invocation, health: Record) -> None:
    if invocation.json:
        click.echo(json_line(health))
        return
    log = health["log"]
    lines = {
        health["status"]: f"pid {health['pid']}, version {health['version']}, up {duration(health['uptime_s'] * 1000)}",
        "home": str(invocation.home.path),
        "log": f"@{health['head']}, {size(log['bytes'])} in {log['backend']}, durable on {log['durable']}"
        + (f", READ-ONLY: {log['reason']}" if log["read_only"] else ""),
        "plugins": f"{len(health['plugins'])}, with {health['events']} events"
        + (f"; FAILED: {', '.join(health['failed'])}" if health["failed"] else ""),
        "in flight": str(health["in_flight"]),
    }
    if url := health.get("http"):
        lines["http"] = url
    if requests := health.get("requests"):
        lines["requests"] = f"{requests['calls']}" + "".join(f", {n} {code}" for code, n in requests["errors"].items())
    for name, said in lines.items():
        click.echo(f"{coloured(name, 11) if name == health['status'] else name.ljust(11)}{said}")
