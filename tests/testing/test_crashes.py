"""Orders placed while the kernel crashes again and again: each happens once, with all that belongs to it."""

import asyncio
from collections import Counter
from random import Random
from typing import ClassVar

import msgspec
import pytest

from ksi.core import ids
from ksi.core.errors import KSIConnectionError
from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.rerun import RERUNS_MAX
from ksi.testing.harness import EventTestHarness
from ksi.testing.loop import VirtualClockLoop


@fact("order:was_placed")
class OrderWasPlaced(msgspec.Struct, frozen=True):
    number: int


@fact("stock:was_taken")
class StockWasTaken(msgspec.Struct, frozen=True):
    number: int


@fact("mail:was_sent")
class MailWasSent(msgspec.Struct, frozen=True):
    number: int


class ShopPlugin(AsyncPlugin):
    """An order charges (an effect), takes from the stock (a nested command) and sends a mail (an emit)."""

    name = "shop"
    charges: ClassVar[Counter[int]] = Counter()

    @event("order:place", durability="before", on_crash="rerun", timeout=None)
    async def place(self, number: int, context: EventContext) -> dict[str, int]:
        async def charge() -> int:
            self.charges[number] += 1
            await asyncio.sleep(1)
            return number

        await context.effect("charge", {"number": number}, charge, result=int, idempotent=True)
        await context.request("stock:take", {"number": number})
        await asyncio.sleep(1)
        context.append(f"order/{number}", OrderWasPlaced(number))
        context.emit("mail:send", {"number": number})
        return {"placed": number}

    @event("stock:take", key=lambda payload: "stock")
    async def take(self, number: int, context: EventContext) -> dict[str, int]:
        await asyncio.sleep(0.1)
        context.append("stock/all", StockWasTaken(number))
        return {"taken": number}

    @event("mail:send")
    async def send(self, number: int, context: EventContext) -> dict[str, int]:
        await asyncio.sleep(0.5)
        context.append("mail/all", MailWasSent(number))
        return {"sent": number}


SEEDS = [*range(20), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(20, 500))]


async def order(ksi: EventTestHarness, number: int, event_id: str) -> object:
    """Place it, again under the same id after every lost connection."""
    while True:
        try:
            return await ksi.request("order:place", {"number": number}, event_id=event_id)
        except KSIConnectionError:
            await asyncio.sleep(0.01)


async def place_orders(random: Random, count: int = 8) -> None:
    async with EventTestHarness(ShopPlugin) as ksi:
        orders = [asyncio.create_task(order(ksi, number, ids.text(ids.new_id()))) for number in range(count)]
        for _ in range(RERUNS_MAX):
            await asyncio.sleep(random.uniform(0, 3))
            await ksi.crash()
        assert await asyncio.gather(*orders) == [{"placed": number} for number in range(count)]
        await asyncio.sleep(60)
        for name in ("order:was_placed", "stock:was_taken", "mail:was_sent"):
            assert sorted(each.data["number"] for each in await ksi.facts(name)) == list(range(count)), name
        assert max(ShopPlugin.charges.values()) <= 1 + RERUNS_MAX
        assert [known async for known in ksi.log.open_requests()] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_each_order_is_placed_taken_and_mailed_once(seed: int) -> None:
    ShopPlugin.charges.clear()
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(seed=seed)) as runner:
        runner.run(place_orders(Random(seed)))
