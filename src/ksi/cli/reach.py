"""The way to the daemon: a connection for each command; the daemon is started first where that is wanted."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic, sleep
from typing import Any, TypeVar

import msgspec

from ksi.cli.arguments import remember_events
from ksi.cli.failure import EXIT_INTERRUPTED
from ksi.cli.invocation import Invocation
from ksi.cli.output import Record
from ksi.client.client import EventClient, Options
from ksi.client.spawn import is_answering, start_daemon
from ksi.client.streams import EventStream
from ksi.core.errors import KSIConnectionError
from ksi.core.home import Home
from ksi.store.lock import holder_of, lock_of

HTTP_PATIENCE, HTTP_LOOK_EVERY = 10.0, 0.01
"""Seconds that the start of HTTP may take, behind that of the Unix socket."""
LOOK = 5.0
"""Seconds within which a daemon that is well has answered a simple question."""

T = TypeVar("T")
Show = Callable[[Any, str | None], None]
"""Takes a chunk and its address in the log."""


class UnresponsiveError(KSIConnectionError):
    """It hangs, or was stopped; `kill -9` and `ksi start` lose nothing that was recorded."""

    def __init__(self, pid: int | None, *, seconds: float) -> None:
        super().__init__(f"the daemon (pid {pid}) runs, and does not answer within {seconds:g} s")
        self.pid = pid


class Ending(msgspec.Struct, frozen=True):
    """The end value of a stream; ``is_interrupted``: somebody pressed Ctrl-C, and it is what there was by then."""

    value: Any
    is_interrupted: bool

    def exit_if_interrupted(self) -> None:
        if self.is_interrupted:
            sys.exit(EXIT_INTERRUPTED)


def run(
    invocation: Invocation,
    work: Callable[[EventClient], Awaitable[T]],
    *,
    may_start: bool = True,
    within: float | None = None,
) -> T:
    """What ``work`` makes of a client that is connected; ``within`` so many seconds.

    Raises:
        KSIConnectionError: No daemon answers, and nobody wanted one to be started.
        UnresponsiveError: One runs, and the work was not done in time.
    """

    async def connected() -> T:
        async with asyncio.timeout(within), _client(invocation, may_start=may_start) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except TimeoutError:
        raise UnresponsiveError(daemon_pid(invocation.home), seconds=within or 0.0) from None


def ask(
    invocation: Invocation,
    event: str,
    data: Mapping[str, Any] | None = None,
    /,
    *,
    options: Options | None = None,
    may_start: bool = True,
    within: float | None = None,
    **fields: Any,
) -> Any:
    """The answer to one request; ``data`` or ``fields`` are its payload."""
    payload = fields if data is None else data
    return run(
        invocation,
        lambda client: client.request(event, payload, options=options),
        may_start=may_start,
        within=within,
    )


def described_events(invocation: Invocation, **fields: Any) -> list[Record]:
    """All that ``system:describe`` says."""
    events: list[Record] = run(invocation, lambda client: all_pages(client, "system:describe", **fields))["events"]
    return events


async def all_pages(client: EventClient, event: str, **fields: Any) -> Record:
    """The answer to an event that gives ``events`` in pages, with all of them; anew where they change meanwhile."""
    whole: Record = await client.request(event, fields)
    while after := whole.pop("next", None):
        page = await client.request(event, fields | {"after": after})
        if page.get("hash") != whole.get("hash"):
            return await all_pages(client, event, **fields)
        whole = page | {"events": whole["events"] + page["events"]}
    return whole


def accept(invocation: Invocation, event: str, data: Mapping[str, Any], options: Options) -> Any:
    """Have a request done and do not wait for it: its ids, once it is on disk."""
    return msgspec.to_builtins(run(invocation, lambda client: client.send(event, data, options=options)))


def stream(
    invocation: Invocation, event: str, data: Mapping[str, Any], show: Show, options: Options | None = None
) -> Ending:
    """Show each chunk as it comes. Ctrl-C stops it at the daemon; a second one does not wait for the end."""
    return run(invocation, lambda client: taken(client.stream(event, data, options=options), show))


async def taken(chunks: EventStream, show: Show) -> Ending:
    """The same for a stream that is there."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # so that the second one is a KeyboardInterrupt
        interrupted.set()
        chunks.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        async with chunks:
            async for chunk in chunks:
                show(chunk.data, chunk.at)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return Ending(chunks.end, interrupted.is_set())


def start_here(invocation: Invocation, arguments: Sequence[str] = ()) -> None:
    """Start the daemon of this home, and say so; ``arguments`` are those of ``python -m ksi.daemon``."""
    invocation.say(f"starting the daemon in {invocation.home.path}")
    start_daemon(invocation.home, arguments=arguments)


def daemon_pid(home: Home) -> int | None:
    """The process that listens on the home's socket, whether it can answer or not; None: there is none."""
    return holder_of(lock_of(home.log)) if is_answering(home.socket) else None


def http_url(home: Home, pid: int | None) -> str | None:
    """Where the daemon listens for HTTP; None where it does not."""
    return _http_said(home, pid).get("url")


def http_problem(home: Home, pid: int | None) -> str | None:
    """Why it does not, where it would have."""
    return _http_said(home, pid).get("error")


def wait_for_http(home: Home, pid: int | None) -> str:
    """Where the daemon listens for HTTP, as soon as it does.

    Raises:
        KSIConnectionError: It does not, and says why.
    """
    until = monotonic() + HTTP_PATIENCE
    while not (said := _http_said(home, pid)) and monotonic() < until:
        sleep(HTTP_LOOK_EVERY)
    if "url" not in said:
        raise KSIConnectionError(f"no HTTP: {said.get('error', 'it did not start in time')}")
    return str(said["url"])


def _http_said(home: Home, pid: int | None) -> dict[str, Any]:
    """What the daemon says of its HTTP: ``url``, or ``error``; nothing yet."""
    try:
        said: dict[str, Any] = msgspec.json.decode(home.http_file.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    return said if said["pid"] == pid else {}  # else it is what a crash left


@asynccontextmanager
async def _client(invocation: Invocation, *, may_start: bool) -> AsyncIterator[EventClient]:
    wants_start = invocation.start or invocation.is_interactive
    is_new = may_start and wants_start and not is_answering(invocation.home.socket)
    if is_new:
        start_here(invocation)
    async with EventClient(home=invocation.home.path, name="ksi", branch=invocation.branch) as client:
        if is_new:
            remember_events(invocation, (await all_pages(client, "system:describe"))["events"])
        yield client
