"""What the contracts of logs, and tests, put into them: counters, their view, and units that count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    KSIError,
)
from ksi.core.events import (
    Filter,
    NewEvent,
    RecordedEvent,
)
from ksi.core.ports import Committed, Entry, Journal, Outcome, Unit
from ksi.core.views import View, ViewWriter

T = TypeVar("T")
COUNTER = "counter:added"
ALL_KINDS = Filter(kinds=("fact", "request", "outcome", "chunk"))


class Counter(msgspec.Struct, frozen=True):
    id: str
    total: int


class CounterView(View[Counter]):
    """Sums the amounts of each counter."""

    name = "counters"
    query = (Filter(names=(COUNTER,)),)
    record = Counter
    key = ("id",)
    indexes: ClassVar[Mapping[str, tuple[str, ...]]] = {"by_total": ("total",)}

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        amount = event.data["amount"]
        if amount == "poison":
            raise RuntimeError("this amount can not be added")
        name = event.stream.partition("/")[2]
        if amount is None:
            writer.delete(name)
            return
        known = writer.get(name)
        writer.put(Counter(name, amount + (known.total if known else 0)))


def added(amount: Any = 1, **more: Any) -> NewEvent:
    return NewEvent(name=COUNTER, data={"amount": amount}, **more)


async def listed(events: AsyncIterator[T]) -> list[T]:
    return [event async for event in events]


async def written(store: Journal, unit: Unit) -> Committed:
    """The end of ``unit``, raised where it failed."""
    return await submitted(store, unit)


def submitted(store: Journal, unit: Unit) -> asyncio.Future[Committed]:
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def done(committed: Committed | None, error: KSIError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            assert committed is not None
            future.set_result(committed)

    store.write(unit, done)
    return future


def request(name: str = "counter:add", raw: bytes = b'{"amount":1}', **fields: Any) -> EventEnvelope:
    return EventEnvelope(name=name, raw=raw, id=fields.pop("id", None) or ids.new_id(), **fields)


def command(stream: str = "counter/a", amount: int = 1, **fields: Any) -> Unit:
    """A request with one fact and its outcome."""
    return Unit(
        origin=request(**fields),
        request=True,
        entries=[Entry(stream=stream, name=COUNTER, data=b'{"amount":%d}' % amount)],
        outcome=Outcome(True, b'{"total":%d}' % amount),
    )
