"""The daemon: puts everything together from the configuration, runs, drains, stops.

``python -m ksi.daemon --home DIR`` runs it in the foreground until SIGTERM, SIGINT or ``system:shutdown``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from ksi.core import config as configuration
from ksi.core.blobs import Blobs
from ksi.core.clock import Clock, SystemClock
from ksi.core.config import Config, TraceSection
from ksi.core.errors import ConfigError, KSIError
from ksi.core.home import Home, said_of_disk
from ksi.core.ports import Journal, Shutdown, Tokens
from ksi.core.threads import SystemThreads, Threads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.loader import Source, discover
from ksi.kernel.router import Limits
from ksi.observe import logs
from ksi.observe.otlp import Exporter, otlp_sender
from ksi.observe.spans import Sampling, Spans
from ksi.observe.watchdog import Watchdog
from ksi.store.blobs import BlobStore
from ksi.store.keyfile import keys_of
from ksi.store.lock import LockFile, lock_of
from ksi.store.sqlite_log import SqliteEventStore
from ksi.transport.budget import Limits as TransportLimits
from ksi.transport.http.binding import refuse_open
from ksi.transport.http.starting import Http
from ksi.transport.tokens import TokenStore
from ksi.transport.unix import UnixServer

BUILT_IN = (
    "ksi.plugins.system:System",
    "ksi.plugins.permission:Permission",
    "ksi.plugins.describe:Describe",
    "ksi.plugins.state:State",
    "ksi.plugins.log:Log",
    "ksi.plugins.event:Event",
    "ksi.plugins.monitor:Monitor",
    "ksi.plugins.correlation:Correlation",
    "ksi.plugins.entity:Entity",
    "ksi.plugins.timetravel:TimeTravel",
    "ksi.plugins.projection:Projection",
    "ksi.plugins.branch:Branch",
    "ksi.plugins.care:Care",
    "ksi.plugins.archive:ArchivePlugin",
    "ksi.plugins.blob:BlobPlugin",
    "ksi.plugins.budget:Budget",
    "ksi.plugins.schedule:Scheduler",
    "ksi.plugins.message:Message",
    "ksi.plugins.route:RoutePlugin",
    "ksi.plugins.plugin:PluginControl",
    "ksi.plugins.conversation:Conversation",
    "ksi.plugins.completion:Completion",
    "ksi.plugins.model:Model",
    "ksi.plugins.composition:Composition",
    "ksi.plugins.agent:Agent",
    "ksi.plugins.sandbox.plugin:Sandbox",
    "ksi.plugins.door:Doors",
    "ksi.plugins.endpoint:Endpoint",
    "ksi.plugins.mcp:Mcp",
    "ksi.plugins.mcp:McpServers",
)
SWITCH_INTERVAL = 0.0005
"""Seconds after which the interpreter lets another thread run: at Python's 5 ms the log's writer waits for the loop."""
STUBBORN_GRACE = 0.2
"""Seconds that tasks have to end once the log is closed."""
THREAD_GRACE = 0.1
"""The same for a thread that runs others' code."""
FLUSH_GRACE = 2.0
"""Seconds that connections have to take what is written for them when the daemon stops."""
FILES = 8_192
"""Connections of all doors, files of the log, pipes to children."""
COLLECTOR_THRESHOLDS = (2_000, 10, 10)
EXIT_OK, EXIT_FAILED = 0, 1
_log = logging.getLogger("ksi.daemon")


class Stop:
    """Implements :class:`~ksi.core.ports.Shutdown`: remembers that somebody asked, and why."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()


@asynccontextmanager
async def running(config: Config, *, plugins: Sequence[str] = ()) -> AsyncIterator[tuple[Kernel, Stop]]:
    """A whole daemon: the log is open, the plugins run, what a crash left open has its end, the socket answers.

    On the way out it drains in the order of the promise: nothing new, what runs ends or is cancelled, outcomes are on
    disk, streams get their end frames, then the log is closed.
    """
    home, limits = config.home, config.limits
    refuse_open(config.http)
    home.make()
    async with AsyncExitStack() as stack:
        threads = SystemThreads()
        stack.callback(threads.close)
        clock = SystemClock()
        store = await stack.enter_async_context(log_of(config, clock, threads))
        tracer = await stack.enter_async_context(tracing(config.trace, clock, threads))
        kernel = Kernel(
            Ports(journal=store, threads=threads, clock=clock, tracer=tracer),
            limits=kernel_limits(config),
            home=home.path,
            settings=settings_of(config),
        )
        stop = Stop()
        kernel.services.register(Shutdown, stop)
        kernel.services.register(Config, config)
        blobs = BlobStore(home.blobs, threads)
        blobs.remove_old_parts()
        kernel.services.register(Blobs, blobs)
        tokens = TokenStore(home.tokens, clock=clock)
        kernel.services.register(Tokens, tokens)
        stack.push_async_callback(kernel.stop)
        recovered = await kernel.start(sources(config, plugins))
        if recovered.rerun or recovered.closed:
            _log.info("after a crash: %d requests run again, %d closed", recovered.rerun, recovered.closed)
        doors = transport_limits(config)
        server = UnixServer(kernel.router, home.socket, doors, clock=clock, tokens=tokens)
        await server.start()
        stack.push_async_callback(server.close, FLUSH_GRACE)
        if config.http.enabled:
            http = Http(kernel.services, tokens, config.http, home, server.common, threads)
            http.start()
            stack.push_async_callback(http.close, FLUSH_GRACE)
        stack.push_async_callback(kernel.router.drain, limits.stop_timeout)
        yield kernel, stop


@asynccontextmanager
async def log_of(config: Config, clock: Clock, threads: Threads) -> AsyncIterator[Journal]:
    """The log: in PostgreSQL where the configuration names a database, else in the home, which is this daemon's anyway.

    Raises:
        ConfigError: What PostgreSQL needs is not installed.
    """
    file, durability, url = config.home.log, config.store.durability, config.store.url
    if url is None:
        async with SqliteEventStore.open(file, clock=clock, threads=threads, durability=durability) as in_home:
            yield in_home
        return
    try:
        from ksi.store.postgres_log import PostgresEventStore  # an extra
    except ImportError:
        raise ConfigError("PostgreSQL needs more: pip install 'ksi[postgres]'", where="store.url") from None
    if file.exists():
        _log.warning("the log in %s is not used: store.url names another", file)
    lock = LockFile(lock_of(file))
    try:
        keys = keys_of(file)
        opened = PostgresEventStore.open(url.reveal(), clock=clock, threads=threads, durability=durability, keys=keys)
        async with opened as in_database:
            yield in_database
    finally:
        lock.release()


@asynccontextmanager
async def tracing(wanted: TraceSection, clock: Clock, threads: Threads) -> AsyncIterator[Spans | None]:
    """Who keeps spans, and sends them on where that is wanted; None where nobody does."""
    sampling = Sampling(share=wanted.share, slow=wanted.slow)
    if not wanted.enabled or wanted.endpoint is None:
        yield Spans(clock, sampling) if wanted.enabled else None
        return
    exporter = Exporter(otlp_sender(wanted.endpoint, service="ksi"), threads)
    try:
        yield Spans(clock, sampling, exporter.put)
    finally:
        await exporter.close()


def sources(config: Config, plugins: Sequence[str] = ()) -> list[Source]:
    """Built-in services first, then what is found, then what is named."""
    wanted = [Source(target) for target in BUILT_IN]
    wanted += discover(config.home.path)
    wanted += [Source(target) for target in (*config.plugins.load, *plugins)]
    disabled = set(config.plugins.disable)
    return [source for source in wanted if not disabled & {str(source), str(source).rpartition(":")[2].lower()}]


def settings_of(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """Each plugin's own table, ``[plugin.NAME]``; built-in services take the typed :class:`Config` as a service."""
    return config.plugin


def kernel_limits(config: Config) -> Limits:
    return Limits(
        stall_timeout=config.limits.stall_timeout,
        disconnect_grace=config.limits.disconnect_grace,
        drain_timeout=config.limits.stop_timeout,
        initialize_timeout=config.plugins.initialize_timeout,
        shutdown_timeout=config.plugins.shutdown_timeout,
    )


def transport_limits(config: Config) -> TransportLimits:
    limits = config.limits
    return TransportLimits(
        frame_bytes_max=limits.frame_bytes_max,
        in_flight_max=limits.in_flight_per_connection,
        in_flight_total_max=limits.in_flight,
        inbound_bytes_max=limits.inbound_bytes_max,
    )


async def serve(config: Config, *, plugins: Sequence[str] = ()) -> None:
    """Run until somebody asks for the end."""
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(loop)
    async with running(config, plugins=plugins) as (_, stop):
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.request, name.name)
        config.home.pid_file.write_text(f"{os.getpid()}\n")
        watchdog.start()
        settle_collector()
        _log.info("ready: %s, pid %d", config.home.socket, os.getpid())
        try:
            await stop.wait()
        finally:
            _log.info("stopping: %s", stop.reason)
            watchdog.stop()
            config.home.pid_file.unlink(missing_ok=True)
    await end_the_rest()


async def end_the_rest() -> None:
    """End the process now where a handler swallows its cancel, or holds a thread: it would never end by itself.

    All that was promised is on disk, and the log is closed.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    stubborn = (await asyncio.wait(left, timeout=STUBBORN_GRACE))[1] if left else set()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("ksi-blocking") and _holds(thread)]
    if stubborn or threads:
        _log.warning("ended with %d tasks and %d threads that do not end", len(stubborn), len(threads))
        logging.shutdown()
        os._exit(EXIT_OK)


def raise_file_limit() -> None:
    """Be able to have as many connections as the doors let in: the system's default is for programs with a few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _holds(thread: threading.Thread) -> bool:
    """Whether a thread goes on though its pool is closed; an idle one takes a moment to notice."""
    thread.join(THREAD_GRACE)
    return thread.is_alive()


def settle_collector() -> None:
    """What is here now stays: the collector need not look at it again, nor at each short-lived request.

    Requests make no circles, so they are freed without it; connections do, so it is not put off for long.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def run(config: Config, *, plugins: Sequence[str] = ()) -> int:
    """The same, as a whole program; the answer is its exit code."""
    os.environ.pop("KSI_TOKEN", None)  # of whoever starts this: not of the processes that this starts
    sys.setswitchinterval(SWITCH_INTERVAL)
    raise_file_limit()
    try:
        config.home.make()
        logs.configure(config.log, config.home.logs / "daemon.log")
        uvloop.run(serve(config, plugins=plugins))
    except KSIError as error:
        _log.error("the daemon does not run: %s: %s", error.code, error.message)
        sys.stderr.write(f"ksi: {error.code}: {error.message}\n")
        return EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"ksi: unavailable: {error}{said_of_disk(config.home.log)}\n")
        return EXIT_FAILED
    return EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ksi.daemon", description="Run KSI's daemon in the foreground.")
    parser.add_argument("--home", type=Path, help="the directory that holds all of it")
    parser.add_argument("--plugin", action="append", default=[], help="module:Class, or a file; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the configuration")
    given = parser.parse_args(arguments)
    try:
        flags = dict(pair.partition("=")[::2] for pair in given.set)
        config = configuration.load(Home.choose(given.home, os.environ), os.environ, flags)
    except KSIError as error:
        sys.stderr.write(f"ksi: {error.code}: {error.message}\n")
        return EXIT_FAILED
    return run(config, plugins=given.plugin)


if __name__ == "__main__":
    sys.exit(main())
