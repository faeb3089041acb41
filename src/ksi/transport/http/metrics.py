"""Numbers of the daemon in Prometheus' text form, read where they are kept anyway.

Labels have bounds: events are those that are registered, codes those of errors, providers those that are configured. No
label holds an id or a principal. ``docs/how-to/observe.md`` lists all of them.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ksi.kernel.latency import BOUNDS
from ksi.kernel.router import Router
from ksi.kernel.table import Row
from ksi.observe.logs import lines_dropped
from ksi.providers.desk import Desk
from ksi.transport.budget import Budget
from ksi.transport.http.exchange import Answer, Exchange

MEDIA = b"text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, float]
"""Labels as they are written, with their brackets, and the value."""


class Family(NamedTuple):
    """A metric with its samples; of a histogram they have their suffix in front, as in ``_sum{…}``."""

    name: str
    kind: str
    samples: Sequence[Sample]

    def text(self) -> str:
        """Its lines; none without a sample."""
        lines = (f"{self.name}{labels} {_number(value)}" for labels, value in self.samples)
        return "\n".join([f"# TYPE {self.name} {self.kind}", *lines, ""]) if self.samples else ""


class Metrics:
    """``/metrics``."""

    def __init__(self, router: Router, budget: Budget, data: Path, connections: Mapping[str, Sized]) -> None:
        """``data`` is the directory of the log; ``connections`` holds those of each door."""
        self._router = router
        self._budget = budget
        self._data = data
        self._connections = connections

    async def show(self, exchange: Exchange) -> None:
        """Answer with all of them."""
        head, turn = await self._router.journal.head() or 0, await _turn_seconds()
        families = (*self._requests(), *self._doors(), *self._store(head), *self._models(), *_process(turn))
        await exchange.answer(Answer(body="".join(family.text() for family in families).encode(), media=MEDIA))

    def _requests(self) -> Iterator[Family]:
        router = self._router
        rows = [row for _, row in sorted(router.table.items()) if row.calls]
        failed = [(_labels(event=row.name, code=code), n) for row in rows for code, n in sorted(row.errors.items())]
        running = [execution.row.is_stream for execution in router.running.values()]
        under_way = {"command": running.count(False), "query": len(router.queries), "stream": running.count(True)}
        yield Family("ksi_requests_total", "counter", [(_labels(event=row.name), row.calls) for row in rows])
        yield Family("ksi_errors_total", "counter", failed)
        yield Family("ksi_request_seconds", "histogram", [sample for row in rows for sample in _histogram(row)])
        yield Family("ksi_requests_in_flight", "gauge", [(_labels(kind=kind), n) for kind, n in under_way.items()])
        yield Family("ksi_requests_waiting", "gauge", [("", router.keys.waiting)])
        yield Family("ksi_requests_parked", "gauge", [("", len(router.parking))])
        yield Family("ksi_draining", "gauge", [("", router.is_draining)])
        yield Family("ksi_spans_dropped_total", "counter", [("", router.tracer.dropped if router.tracer else 0)])

    def _doors(self) -> Iterator[Family]:
        doors = [(_labels(door=door), len(held)) for door, held in self._connections.items()]
        yield Family("ksi_connections", "gauge", doors)
        yield Family("ksi_requests_at_the_doors", "gauge", [("", self._budget.requests)])
        yield Family("ksi_inbound_bytes", "gauge", [("", self._budget.bytes)])

    def _store(self, head: int) -> Iterator[Family]:
        log = self._router.journal
        yield Family("ksi_log_position", "counter", [("", head)])
        yield Family("ksi_log_commits_total", "counter", [("", log.commits)])
        yield Family("ksi_log_read_only", "gauge", [("", log.is_read_only)])
        files = sorted(self._data.glob("events.db*"))
        yield Family("ksi_log_bytes", "gauge", [(_labels(file=file.name), file.stat().st_size) for file in files])
        yield Family("ksi_subscriptions_dropped_total", "counter", [("", log.dropped)])

    def _models(self) -> Iterator[Family]:
        if self._router.services.provider_of(Desk) is None:
            return
        desk = self._router.services.get(Desk)
        status = Counter(ticket.status for ticket in desk.tickets.values())
        spent = sorted(desk.spent.items())
        yield Family("ksi_completions", "gauge", [(_labels(status=s), status[s]) for s in ("queued", "running")])
        tokens = [
            (_labels(provider=name, direction=direction), count)
            for name, used in spent
            for direction, count in (("input", used.input_tokens), ("output", used.output_tokens))
        ]
        yield Family("ksi_tokens_total", "counter", tokens)
        yield Family("ksi_cost_dollars_total", "counter", [(_labels(provider=n), s.cost / 1e6) for n, s in spent])


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _histogram(row: Row) -> Iterator[Sample]:
    below = list(accumulate(row.latency.counts))
    if below[-1] == 0:
        return
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), below, strict=True):
        yield "_bucket" + _labels(event=row.name, le=bound), count
    yield "_sum" + _labels(event=row.name), row.latency.total
    yield "_count" + _labels(event=row.name), below[-1]


def _number(value: float) -> str:
    return repr(value) if value % 1 else str(int(value))


async def _turn_seconds() -> float:
    """How long the loop takes for one turn now."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    return loop.time() - began


def _process(turn: float) -> Iterator[Family]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    yield Family("ksi_loop_turn_seconds", "gauge", [("", turn)])
    yield Family("ksi_log_lines_dropped_total", "counter", [("", lines_dropped())])
    yield Family("process_cpu_seconds_total", "counter", [("", used.ru_utime + used.ru_stime)])
    yield Family("process_resident_memory_bytes", "gauge", [("", pages * resource.getpagesize())])
    yield Family("process_open_fds", "gauge", [("", sum(1 for _ in Path("/proc/self/fd").iterdir()))])
