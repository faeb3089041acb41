"""Replay: handlers run again, are served what is recorded, and either say the same or diverge where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, NotFoundError, ReplayDivergenceError, ReplayUnhandledError
from ksi.core.events import Filter, Position, RecordedEvent, fact
from ksi.core.ports import EventLog
from ksi.core.threads import SystemThreads, settle
from ksi.core.views import View, ViewWriter
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.door import Session
from ksi.kernel.plugin import AsyncPlugin
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.harness import EventTestHarness
from tests.kernel.replaying import newest_run, replayed


@fact("shop:sold")
class Sold(msgspec.Struct, frozen=True):
    what: str
    price: int


class Stock(msgspec.Struct, frozen=True):
    what: str
    sold: int


class StockView(View[Stock]):
    name = "stock"
    query = (Filter(names=("shop:sold",)),)
    record = Stock
    key = ("what",)

    def apply(self, writer: ViewWriter, event: RecordedEvent) -> None:
        sold = event.into(Sold)
        before = writer.get(sold.what)
        writer.put(Stock(sold.what, 1 if before is None else before.sold + 1))


class Shop(AsyncPlugin):
    """Handlers of all kinds. ``calls`` counts what it did outside; ``change`` is what a new version does otherwise."""

    name = "shop"
    views = (StockView,)
    calls: list[str] = []  # noqa: RUF012  # shared on purpose
    sales: list[str] = []  # noqa: RUF012  # the same
    change = ""

    @event("shop:sell", key=lambda request: f"shop/{request.what}")
    async def sell(self, what: str, context: EventContext, price: int = 1) -> int:
        self.sales.append(what)
        before = await context.view(StockView).get(what)
        context.append(f"shop/{what}", Sold(what, price + ("price" in self.change)))
        return 1 if before is None else before.sold + 1

    @event("shop:peek")
    async def peek(self, what: str, context: EventContext) -> int:
        found = await context.view(StockView).get(what)
        return found.sold if found else 0

    @event("shop:audit")
    async def audit(self, context: EventContext) -> int:
        return len([event async for event in context.services.get(EventLog).read_all()])

    @stream("shop:tick")
    async def tick(self, context: EventContext) -> AsyncIterator[int | End[int]]:
        number = 0
        try:
            while True:
                number += 1
                yield number
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            context.append(f"shop/{context.event_id}", Sold("stopped", number + ("stop" in self.change)))
        yield End(number)

    @event("shop:order", durability="before")
    async def order(self, what: str, context: EventContext) -> dict[str, Any]:
        async def pay() -> int:
            self.calls.append("pay")
            return 42

        async def look() -> str:
            self.calls.append("look")
            return "sunny"

        weather = await context.observe("weather:look", {}, look)
        price = await context.effect("bank:pay", {"for": what, "twice": "effect" in self.change}, pay)
        count = await context.request("shop:count", what=what)
        if "request" not in self.change:
            await context.request("shop:sell", what=what, price=price)
        if "emit" not in self.change:
            context.emit("shop:sell", what=f"emitted {what}")
        at = context.now().isoformat()
        return {"price": price, "before": count, "weather": weather, "at": at, "lot": context.random.random()}

    @query("shop:count")
    async def count(self, what: str, context: EventContext) -> int:
        found = await context.view(StockView).get(what)
        if found is None and "query" in self.change:
            raise NotFoundError("stock", what)
        return found.sold if found else 0

    @event("shop:fail")
    async def fail(self, what: str, context: EventContext) -> None:
        context.now()
        raise NotFoundError("thing", what)

    @stream("shop:tell", errors=("not_found",))
    async def tell(self, words: int, context: EventContext, waits: bool = False) -> AsyncIterator[str | End[str]]:
        async def ask() -> AsyncIterator[str]:
            self.calls.append("ask")
            for number in range(words):
                yield f"word {number}"
            if waits:
                await asyncio.Event().wait()

        said: list[str] = []
        context.append(f"shop/{context.event_id}", Sold("story", words))
        try:
            async with context.streamed_effect("llm:ask", {"words": words}) as effect:
                async for word in effect.pieces(ask, lambda chunks, _: chunks):  # type: ignore[arg-type]  # a generator
                    said.append(word)
                    yield word + ("!" if "chunk" in self.change else "")
                effect.complete({"words": words})
        except asyncio.CancelledError:
            context.append(f"shop/{context.event_id}", Sold("stopped", len(said)))
        yield End(" ".join(said))

    @stream("shop:retell")
    async def retell(self, words: int, context: EventContext, waits: bool = False) -> AsyncIterator[str | End[int]]:
        heard: list[str] = []
        try:
            async for item in context.stream("shop:tell", words=words, waits=waits):
                if isinstance(item, End):
                    break
                heard.append(item)
                yield item.upper()
        except asyncio.CancelledError:
            context.append(f"shop/{context.event_id}", Sold("interrupted", len(heard)))
        yield End(len(heard))


@pytest.fixture(autouse=True)
def _same_shop() -> None:
    Shop.calls.clear()
    Shop.sales.clear()
    Shop.change = ""


@pytest.fixture
async def ksi() -> AsyncIterator[EventTestHarness]:
    async with EventTestHarness(Shop) as ksi:
        yield ksi


async def taken(ksi: EventTestHarness, event: str, **data: Any) -> list[Any]:
    return [chunk async for chunk in ksi.stream(event, data)]


async def test_a_run_with_effects_reads_emits_and_nested_requests_is_identical_and_calls_nothing(
    ksi: EventTestHarness,
) -> None:
    await ksi.request("shop:sell", {"what": "pear"})
    await ksi.request("shop:order", {"what": "pear"})
    run = await newest_run(ksi.log)
    await ksi.request("shop:sell", {"what": "pear"})
    assert Shop.calls == ["look", "pay"]
    Shop.sales.clear()
    found = await replayed(ksi.log, Shop, run=run)
    assert Shop.calls == ["look", "pay"]
    assert sorted(Shop.sales) == ["emitted pear", "pear"], "each is repeated once"
    assert (found.requests, found.facts, found.effects, found.cut_off) == (3, 2, 1, 0)


async def test_a_stream_is_repeated_chunk_by_chunk(ksi: EventTestHarness) -> None:
    assert await taken(ksi, "shop:retell", words=3) == ["WORD 0", "WORD 1", "WORD 2"]
    found = await replayed(ksi.log, Shop)
    assert (found.requests, found.chunks, Shop.calls) == (2, 6, ["ask"])


async def test_a_request_that_failed_fails_again(ksi: EventTestHarness) -> None:
    with pytest.raises(NotFoundError):
        await ksi.request("shop:fail", {"what": "nothing"})
    assert (await replayed(ksi.log, Shop)).requests == 1


@pytest.mark.parametrize("name", ["shop:tell", "shop:retell"])
async def test_what_was_cancelled_is_cancelled_again_at_the_same_place(ksi: EventTestHarness, name: str) -> None:
    reader = ksi.stream(name, {"words": 3, "waits": True})
    chunks = aiter(reader)
    for _ in range(3):
        await anext(chunks)
    reader.cancel()
    with pytest.raises(KSIError):
        await anext(chunks)
    assert [event.data["price"] for event in await ksi.facts("shop:sold")][-1] == 3
    found = await replayed(ksi.log, Shop)
    assert found.cut_off == found.requests
    Shop.change = "chunk"
    with pytest.raises(ReplayDivergenceError):
        await replayed(ksi.log, Shop)


async def test_a_stream_that_never_waits_is_cancelled_again_behind_its_last_chunk(ksi: EventTestHarness) -> None:
    reader = ksi.stream("shop:tick")
    chunks = aiter(reader)
    while await anext(chunks) < 20:
        pass
    reader.cancel()
    with pytest.raises(KSIError):
        async for _ in chunks:
            pass
    found = await replayed(ksi.log, Shop)
    assert (found.facts, found.cut_off) == (1, 1)
    Shop.change = "stop"
    with pytest.raises(ReplayDivergenceError):
        await replayed(ksi.log, Shop)


async def test_what_a_crash_cut_off_is_repeated_up_to_there(ksi: EventTestHarness) -> None:
    reader = ksi.stream("shop:tell", {"words": 3, "waits": True})
    chunks = aiter(reader)
    for _ in range(3):
        await anext(chunks)
    await ksi.crash()
    found = await replayed(ksi.log, Shop)
    assert (found.chunks, found.cut_off) == (3, 1)


ORDER: dict[str, Any] = {"what": "pear"}


@pytest.mark.parametrize(
    ("change", "recorded", "requested"),
    [
        ("price", ("fact", "shop:sold"), ("fact", "shop:sold")),
        ("effect", ("effect", "bank:pay"), ("effect", "bank:pay")),
        ("request", ("request", "shop:sell"), ("outcome", "shop:order")),
        ("emit", ("request", "shop:sell"), ("outcome", "shop:order")),
    ],
)
async def test_a_handler_that_has_changed_diverges_at_the_event_that_it_changes(
    ksi: EventTestHarness, change: str, recorded: Any, requested: Any
) -> None:
    await ksi.request("shop:order", ORDER)
    Shop.change = change
    with pytest.raises(ReplayDivergenceError) as caught:
        await replayed(ksi.log, Shop)
    found = caught.value
    assert found.recorded is not None
    assert found.requested is not None
    assert (found.recorded["kind"], found.recorded["name"]) == recorded
    assert (found.requested["kind"], found.requested["name"]) == requested
    assert found.position == found.recorded["position"]
    event = await ksi.log.at(found.position)  # type: ignore[arg-type]  # a number
    assert event is not None
    assert Shop.calls == ["look", "pay"]


async def test_the_first_of_several_differences_is_named(ksi: EventTestHarness) -> None:
    await taken(ksi, "shop:tell", words=3)
    Shop.change = "chunk"
    with pytest.raises(ReplayDivergenceError) as caught:
        await replayed(ksi.log, Shop)
    assert caught.value.requested is not None
    assert (caught.value.requested["kind"], caught.value.requested["data"]) == ("chunk", "word 0!")


async def test_of_several_requests_that_differ_the_first_in_the_log_is_named(ksi: EventTestHarness) -> None:
    await ksi.request("shop:order", ORDER)
    await until_sold(ksi, 2)
    Shop.change = "price"
    with pytest.raises(ReplayDivergenceError) as caught:
        await replayed(ksi.log, Shop)
    assert caught.value.position == min(event.position for event in await ksi.facts("shop:sold"))


async def until_sold(ksi: EventTestHarness, count: int) -> None:
    """Until so many sales have their end, emitted ones too."""
    ends = (Filter(names=("shop:sell",), kinds=("outcome",)),)
    async with ksi.log.subscribe(ends, after="start") as events:
        async for _ in events:
            count -= 1
            if count == 0:
                return


async def test_the_log_is_read_as_it_stood(ksi: EventTestHarness) -> None:
    await ksi.request("shop:sell", {"what": "pear"})
    await ksi.request("shop:audit")
    run = await newest_run(ksi.log)
    await ksi.request("shop:sell", {"what": "pear"})
    assert (await replayed(ksi.log, Shop, run=run)).requests == 1


async def test_what_was_read_is_served_though_it_has_changed_since(ksi: EventTestHarness) -> None:
    await ksi.request("shop:order", ORDER)
    run = await newest_run(ksi.log)
    Shop.change = "query"
    assert (await replayed(ksi.log, Shop, run=run)).requests == 3


async def test_a_run_that_does_not_exist_is_not_found(ksi: EventTestHarness) -> None:
    with pytest.raises(NotFoundError):
        await replayed(ksi.log, Shop, run="no-such-run")


async def test_a_run_whose_plugin_is_not_loaded_says_which_event_nobody_handles(ksi: EventTestHarness) -> None:
    await ksi.request("shop:sell", {"what": "pear"})
    with pytest.raises(ReplayUnhandledError) as caught:
        await replayed(ksi.log)
    event = await ksi.log.at(Position(caught.value.position))
    assert event is not None
    assert (caught.value.event_name, event.kind, event.name) == ("shop:sell", "request", "shop:sell")


async def test_a_replay_writes_nothing(ksi: EventTestHarness) -> None:
    await taken(ksi, "shop:tell", words=3)
    before = await ksi.log.head()
    await replayed(ksi.log, Shop)
    assert await ksi.log.head() == before


@pytest.mark.parametrize("times", [1, 5])
async def test_many_commands_at_once_are_repeated_in_what_they_read_under_their_keys(
    ksi: EventTestHarness, times: int
) -> None:
    sold = [ksi.request("shop:sell", {"what": what}) for what in "abc" for _ in range(times)]
    await asyncio.gather(*sold)
    runs = {event.correlation_id for event in await ksi.facts("shop:sold")}
    for run in runs:
        assert (await replayed(ksi.log, Shop, run=run)).facts == 1


async def test_what_was_read_while_others_wrote_is_read_again_as_it_was(tmp_path: Path) -> None:
    """Without a key: what is seen depends on which commits were acknowledged, not on which ones were under way."""
    threads = SystemThreads()
    async with (
        SqliteEventStore.open(tmp_path / "events.db", threads=threads) as log,
        EventTestHarness(Shop, log=log) as ksi,
    ):
        asked = []
        for number in range(60):
            asked += [asyncio.ensure_future(ksi.request(name, {"what": "pear"})) for name in ("shop:sell", "shop:peek")]
            await asyncio.sleep(0.001 * (number % 3))
        await asyncio.gather(*asked)
        runs = [
            event.correlation_id async for event in log.read_all((Filter(names=("shop:peek",), kinds=("request",)),))
        ]
        for run in runs:
            assert (await replayed(log, Shop, run=run)).requests == 1
    threads.close()


async def test_a_run_on_a_branch_is_repeated_with_what_stands_there(ksi: EventTestHarness) -> None:
    await ksi.request("shop:sell", {"what": "pear"})
    head = await ksi.log.head()
    assert head is not None
    await ksi.log.fork(head, "other")
    await ksi.request("shop:sell", {"what": "pear"})
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    envelope = EventEnvelope.create("shop:sell", {"what": "pear"}, branch="other")
    session = Session(principal="tester", source="test")
    ksi.kernel.router.dispatch(envelope, session, lambda token, raw, error: settle(token, raw, error), answer)
    assert await answer == b"2"
    assert (await replayed(ksi.log, Shop, run=envelope.correlation_id, branch="other")).facts == 1


# ── types that got more fields ───────────────────────────────────────────────────────────────────────────────────────
GROWING = """
from collections.abc import AsyncIterator
import msgspec
from ksi import AsyncPlugin, End, EventContext, event, fact, stream

@fact("growing:grew")
class Grew(msgspec.Struct):
    size: int{more}

class Leaf(msgspec.Struct):
    size: int{more}

class Tree(msgspec.Struct):
    leaves: list[Leaf]{more}

class Growing(AsyncPlugin):
    name = "growing"

    @event("growing:grow")
    async def grow(self, context: EventContext) -> Tree:
        context.append("growing/1", Grew(1))
        return Tree([Leaf(1), Leaf(2)]{said})

    @stream("growing:bud")
    async def bud(self) -> AsyncIterator[Leaf | End[Tree]]:
        yield Leaf(1)
        yield End(Tree([Leaf(1)]))
"""


def growing(place: Path, name: str, more: str = "", said: str = "") -> str:
    file = place / f"{name}.py"
    file.write_text(GROWING.format(more=more, said=said))
    return str(file)


async def test_what_lacks_a_field_that_was_added_since_is_as_if_it_had_its_default(tmp_path: Path) -> None:
    then = growing(tmp_path, "then")
    now = growing(tmp_path, "now", more="\n    cost: float | None = None\n    kind: str = 'oak'")
    costs = growing(tmp_path, "costs", more="\n    cost: float | None = None", said=", cost=1.0")
    async with EventTestHarness(then) as ksi:
        await ksi.request("growing:grow")
        run = await newest_run(ksi.log)
        assert (await replayed(ksi.log, now, run=run)).facts == 1
        with pytest.raises(ReplayDivergenceError):
            await replayed(ksi.log, costs, run=run)
        assert [chunk async for chunk in ksi.stream("growing:bud")] == [{"size": 1}]
        assert (await replayed(ksi.log, now)).chunks == 1
    async with EventTestHarness(now) as ksi:
        await ksi.request("growing:grow")
        with pytest.raises(ReplayDivergenceError):
            await replayed(ksi.log, then)
