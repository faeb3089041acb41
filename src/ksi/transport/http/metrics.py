"""Numbers of the daemon in Prometheus' text form, read where they are kept anyway.

Labels have bounds: events are those that are registered, codes those of errors. No label holds an id or a principal.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import NamedTuple

from ksi.core.ports import EventLog
from ksi.kernel.router import Router
from ksi.transport.budget import Budget
from ksi.transport.http.exchange import Answer, Exchange

MEDIA = b"text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, float]
"""Labels as they are written, empty where there are none, and the value."""


class Family(NamedTuple):
    """A metric with its samples."""

    name: str
    kind: str
    samples: Sequence[Sample]

    def text(self) -> str:
        """Its lines; none without a sample."""
        lines = (f"{self.name}{labels and f'{{{labels}}}'} {_number(value)}" for labels, value in self.samples)
        return "\n".join([f"# TYPE {self.name} {self.kind}", *lines, ""]) if self.samples else ""


class Metrics:
    """``/metrics``."""

    def __init__(
        self, router: Router, log: EventLog, budget: Budget, data: Path, connections: Mapping[str, Sized]
    ) -> None:
        """``data`` is the directory of the log; ``connections`` holds those of each door."""
        self._router = router
        self._log = log
        self._budget = budget
        self._data = data
        self._connections = connections

    async def show(self, exchange: Exchange) -> None:
        """Answer with all of them."""
        head, turn = await self._log.head() or 0, await _turn_seconds()
        families = (*self._requests(), *self._doors(), *self._store(head), *_process(turn))
        await exchange.answer(Answer(body="".join(family.text() for family in families).encode(), media=MEDIA))

    def _requests(self) -> Iterator[Family]:
        rows = [row for _, row in sorted(self._router.table.items()) if row.calls]
        failed = [(row.name, code, count) for row in rows for code, count in sorted(row.errors.items())]
        running = [execution.row.is_stream for execution in self._router.running.values()]
        under_way = {"command": running.count(False), "query": len(self._router.queries), "stream": running.count(True)}
        yield Family("ksi_requests_total", "counter", [(f'event="{row.name}"', row.calls) for row in rows])
        yield Family(
            "ksi_errors_total", "counter", [(f'event="{name}",code="{code}"', count) for name, code, count in failed]
        )
        yield Family("ksi_requests_in_flight", "gauge", [(f'kind="{kind}"', n) for kind, n in under_way.items()])
        yield Family("ksi_draining", "gauge", [("", self._router.is_draining)])

    def _doors(self) -> Iterator[Family]:
        doors = [(f'door="{door}"', len(held)) for door, held in self._connections.items()]
        yield Family("ksi_connections", "gauge", doors)
        yield Family("ksi_requests_at_the_doors", "gauge", [("", self._budget.requests)])
        yield Family("ksi_inbound_bytes", "gauge", [("", self._budget.bytes)])

    def _store(self, head: int) -> Iterator[Family]:
        yield Family("ksi_log_position", "counter", [("", head)])
        yield Family("ksi_log_read_only", "gauge", [("", self._log.is_read_only)])
        files = sorted(self._data.glob("events.db*"))
        yield Family("ksi_log_bytes", "gauge", [(f'file="{file.name}"', file.stat().st_size) for file in files])


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
    yield Family("process_cpu_seconds_total", "counter", [("", used.ru_utime + used.ru_stime)])
    yield Family("process_resident_memory_bytes", "gauge", [("", pages * resource.getpagesize())])
    yield Family("process_open_fds", "gauge", [("", sum(1 for _ in Path("/proc/self/fd").iterdir()))])
