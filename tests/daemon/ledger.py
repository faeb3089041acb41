"""A plugin whose every step can be counted afterwards: in its facts, and in a file that no crash takes back."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin

OUTSIDE = "outside"
"""File in the home: a line for each payment that was really made."""


class Counter(msgspec.Struct, frozen=True):
    name: str
    total: int


@fact("counter:was_added")
class CounterWasAdded(msgspec.Struct, frozen=True):
    name: str
    total: int


@fact("ledger:was_paid")
class Paid(msgspec.Struct, frozen=True):
    number: int


@fact("ledger:was_echoed")
class Echoed(msgspec.Struct, frozen=True):
    number: int


class Counters(View[Counter]):
    name = "ledger_counters"
    query = (Filter(names=("counter:was_added",)),)
    record = Counter
    key = ("name",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        added = event.into(CounterWasAdded)
        writer.put(Counter(added.name, added.total))


class Ledger(AsyncPlugin):
    """Counters, transfers between them, notes that are echoed, payments."""

    name = "ledger"
    views = (Counters,)

    @event("counter:add", key=lambda request: f"counter/{request.name}")
    async def add(self, name: str, context: EventContext, amount: int = 1) -> int:
        """Add to a counter; answers its total."""
        total = (await self.total(name, context)) + amount
        context.append(f"counter/{name}", CounterWasAdded(name, total))
        return total

    @query("counter:get")
    async def total(self, name: str, context: EventContext) -> int:
        counter = await context.view(Counters).get(name)
        return counter.total if counter else 0

    @event("ledger:transfer")
    async def transfer(self, source: str, target: str, context: EventContext) -> int:
        """Two nested commands, one after the other; answers the sum of both totals."""
        taken = await context.request("counter:add", name=source, amount=-1)
        given = await context.request("counter:add", name=target, amount=1)
        return int(taken + given)

    @event("ledger:note")
    async def note(self, number: int, context: EventContext) -> None:
        """Ask for an echo without waiting for it."""
        context.emit("ledger:echo", number=number)

    @event("ledger:echo")
    async def echo(self, number: int, context: EventContext) -> None:
        context.append(f"echo/{number}", Echoed(number))

    @event("ledger:pay", durability="before")
    async def pay(self, number: int, context: EventContext) -> None:
        """Act on the world: a line in the file."""

        async def call() -> None:
            write_line(self._outside, str(number))

        await context.effect("ledger:write", {"number": number}, call)
        context.append(f"payment/{number}", Paid(number))

    @property
    def _outside(self) -> Path:
        assert self.host.home is not None
        return self.host.home / OUTSIDE


def write_line(path: Path, line: str) -> None:
    """One write to the system, whole or not at all, whatever becomes of the process afterwards."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
