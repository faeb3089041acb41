"""Events that the bench measures: the same work, declared in each way that a plugin can declare it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pydantic

from ksi.core.events import Filter, RecordedEvent, fact
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query, stream
from ksi.kernel.plugin import AsyncPlugin


class Item(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A payload of about 180 bytes of JSON."""

    key: str
    text: str
    count: int
    ratio: float
    tags: list[str]


class ItemModel(pydantic.BaseModel):
    """The same for pydantic."""

    key: str
    text: str
    count: int
    ratio: float
    tags: list[str]


@fact("bench:item_was_put")
class ItemWasPut(msgspec.Struct, frozen=True):
    """The fact of the measured command."""

    key: str
    count: int


class Kept(msgspec.Struct, frozen=True):
    """The record of the measured view."""

    key: str
    count: int


class KeptItems(View[Kept]):
    """One record a key."""

    name = "bench_items"
    query = (Filter(names=("bench:item_was_put",)),)
    record = Kept
    key = ("key",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        put = event.into(ItemWasPut)
        writer.put(Kept(put.key, put.count))


class Bench(AsyncPlugin):
    """Measured events."""

    name = "bench"
    views = (KeptItems,)

    @query("bench:echo_inline", inline=True)
    def echo_inline(self, item: Item) -> Item:
        return item

    @query("bench:echo_async")
    async def echo_async(self, item: Item) -> Item:
        return item

    @query("bench:model_inline", inline=True)
    def model_inline(self, item: ItemModel) -> ItemModel:
        return item

    @query("bench:model_async")
    async def model_async(self, item: ItemModel) -> ItemModel:
        return item

    @stream("bench:chunks", record=False)
    async def chunks(self, to: int) -> AsyncIterator[Item]:
        for number in range(to):
            yield Item(**item(number))

    @event("bench:put", inline=True)
    def put(self, item: Item, context: EventContext) -> Kept:
        context.append(f"item/{item.count % 64}", ItemWasPut(item.key, item.count))
        return Kept(item.key, item.count)

    @event("bench:put_async")
    async def put_async(self, item: Item, context: EventContext) -> Kept:
        return self.put(item, context)


def item(number: int) -> dict[str, Any]:
    """The ``number``-th payload."""
    return {
        "key": f"item-{number % 1024:06d}",
        "text": "the quick brown fox jumps over the lazy dog, twice and more",
        "count": number,
        "ratio": 0.25,
        "tags": ["alpha", "beta", "gamma"],
    }
