"""What each feature adds to a request in the process: the same one again and again, with one more of them each time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import count as counter
from pathlib import Path
from time import perf_counter

import msgspec
import uvloop

from ksi.bench.dispatch import BATCH, RAW, batch
from ksi.bench.measure import Stopwatch
from ksi.bench.plugin import Bench
from ksi.core import ids
from ksi.core.clock import SystemClock
from ksi.core.envelope import EventEnvelope
from ksi.core.ports import Journal
from ksi.core.threads import SystemThreads
from ksi.kernel.assemble import Kernel, Ports
from ksi.kernel.door import Session
from ksi.kernel.latency import Latency
from ksi.kernel.middleware import Middleware
from ksi.kernel.plugin import AsyncPlugin
from ksi.observe.spans import Sampling, Spans
from ksi.plugins.permission import Permission
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore

QUERY, COMMAND = "bench:echo_inline", "bench:put"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SPANS = Sampling(share=0.05, slow=1.0)
_number = counter()


class PermissionAlone(Permission):
    """Without its rates."""

    def middleware(self) -> Iterable[Middleware]:
        return (each for each in super().middleware() if each.stage == "permission")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is on: the step before it, and ``name``."""

    name: str
    event: str = QUERY
    plugins: Sequence[type[AsyncPlugin]] = (Permission, Bench)
    has_trace: bool = False
    has_id: bool = False
    has_spans: bool = False
    is_on_disk: bool = False


class Feature(msgspec.Struct, frozen=True):
    """CPU of a request with all features up to ``name``, and what the last of them added, in µs.

    It is the least of several runs, each the median of its batches: a busy machine makes them longer, never shorter.
    ``spread`` is that of the runs.
    """

    name: str
    cpu_us: float
    adds_us: float
    spread: float


STEPS = (
    Step(name="a query, validated and answered", plugins=[Bench]),
    Step(name="permission", plugins=[PermissionAlone, Bench]),
    Step(name="rate limit"),
    Step(name="tracing: the caller's trace and run", has_trace=True),
    Step(name="log in memory: a command, its fact, its view", has_trace=True, event=COMMAND),
    Step(name="idempotency: the caller's id", has_trace=True, event=COMMAND, has_id=True),
    Step(name="log on SQLite, FULL", has_trace=True, event=COMMAND, has_id=True, is_on_disk=True),
    Step(
        name="tracing: spans, off by default",
        has_trace=True,
        event=COMMAND,
        has_id=True,
        is_on_disk=True,
        has_spans=True,
    ),
)


def features(directory: Path, *, count: int, repetitions: int) -> Iterator[Feature]:
    """The steps by turns, ``count`` requests each."""
    runs = [[uvloop.run(_request_us(step, directory, count)) for step in STEPS] for _ in range(repetitions)]
    before = 0.0
    for number, step in enumerate(STEPS):
        spent = [run[number] for run in runs]
        yield Feature(step.name, min(spent), min(spent) - before, max(spent) - min(spent))
        before = min(spent)
    alone = [_metrics_us(count) for _ in range(repetitions)]
    yield Feature("metrics, by themselves: they are always on", min(alone), min(alone), max(alone) - min(alone))


async def _request_us(step: Step, directory: Path, count: int) -> float:
    """µs of CPU of one request."""
    count = max(BATCH, count // BATCH * BATCH)
    async with AsyncExitStack() as stack:
        threads, clock = SystemThreads(), SystemClock()
        stack.callback(threads.close)
        journal = await _journal(step, stack, directory)
        tracer = Spans(clock, SPANS) if step.has_spans else None
        kernel = Kernel(Ports(journal=journal, threads=threads, clock=clock, tracer=tracer))
        await kernel.start(step.plugins)
        stack.push_async_callback(kernel.stop)
        session, envelopes = Session(principal="bench", source="bench"), _envelopes(step)
        spent = []
        for _ in range(count // BATCH):
            watch = Stopwatch()
            await batch(kernel, session, envelopes())
            spent.append(watch.sample(BATCH).cpu_us)
        return statistics.median(spent)


async def _journal(step: Step, stack: AsyncExitStack, directory: Path) -> Journal:
    if step.is_on_disk:
        path = directory / f"features-{next(_number)}.db"
        return await stack.enter_async_context(SqliteEventStore.open(path))
    store = InMemoryEventStore()
    stack.push_async_callback(store.close)
    return store


def _envelopes(step: Step) -> Callable[[], Iterator[EventEnvelope]]:
    """A batch of requests, with what their callers say."""

    def envelopes() -> Iterator[EventEnvelope]:
        for _ in range(BATCH):
            envelope = EventEnvelope(name=step.event, raw=RAW)
            if step.has_trace:
                envelope.traceparent, envelope.correlation = TRACEPARENT, "bench-run"
            if step.has_id:
                envelope.id = ids.new_id()
            yield envelope

    return envelopes


def _metrics_us(count: int) -> float:
    """Two looks at the clock, and a bucket."""
    latency = Latency()
    watch = Stopwatch()
    for _ in range(count):
        began = perf_counter()
        latency.add(perf_counter() - began)
    return watch.sample(count).cpu_us


def line(feature: Feature) -> str:
    """A row of the table."""
    return f"{feature.name:<52} {feature.cpu_us:>8.2f} µs CPU {feature.adds_us:>+8.2f} µs  ±{feature.spread / 2:.2f}"
