"""FastStream's broker in memory: a typed message to a subscriber, its answer back."""

from __future__ import annotations

from faststream.nats import NatsBroker, TestNatsBroker

from ksi.bench.measure import Sample
from ksi.bench.peer_clients import dispatched
from ksi.bench.plugin import ItemModel, item


async def run(count: int) -> Sample:
    broker = NatsBroker()

    @broker.subscriber("echo")  # type: ignore[untyped-decorator]  # it is not followed: it may not be installed
    async def echo(message: ItemModel) -> ItemModel:
        return message

    message = ItemModel(**item(1))
    async with TestNatsBroker(broker) as in_memory:
        return await dispatched(lambda: in_memory.request(message, "echo"), count)
