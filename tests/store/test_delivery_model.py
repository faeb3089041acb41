"""A subscriber against a model: whatever order it acknowledges in, and however often it leaves, nothing is lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ksi.core.events import Filter, Position, RecordedEvent
from ksi.core.ports import Journal
from ksi.store.memory import InMemoryEventStore
from ksi.store.sqlite_log import SqliteEventStore
from ksi.testing.counters import COUNTER, added

T = TypeVar("T")
PLACE = st.integers(0, 50)
NAME = "worker"


class SubscriberMachine(RuleBasedStateMachine):
    """The log on one side; on the other what the subscriber has done, in plain collections."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.facts: list[int] = []
        self.done: set[int] = set()
        self.parked: set[int] = set()
        self.dropped: set[int] = set()
        self.checkpoint = 0
        self.out: dict[int, RecordedEvent] = {}
        """Given, in order, and neither done nor parked."""
        self.again: deque[int] = deque()
        """Parked ones that were asked for and are still to come."""
        self.seen: set[int] = set()

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            async with asyncio.timeout(10):
                return await work

        return self.runner.run(waited())

    async def make(self) -> Journal:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.store = self.run(self.make())
        self.come()

    def come(self) -> None:
        self.visit = self.store.subscribe([Filter(names=(COUNTER,))], subscriber=NAME)
        self.subscription = self.run(self.visit.__aenter__())
        self.events = aiter(self.subscription)
        self.again = deque(sorted(parked.position for parked in self.listed() if parked.is_retried))
        held = self.parked | self.dropped
        self.coming = [each for each in self.facts if each > self.checkpoint and each not in held]

    def listed(self) -> Any:
        return self.run(self.store.parked(NAME))

    def one_of(self, positions: Any, place: int) -> int:
        chosen: list[int] = sorted(positions)
        return chosen[place % len(chosen)]

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @rule(count=st.integers(1, 6))
    def append(self, count: int) -> None:
        appended = self.run(self.store.append("counter/a", [added()] * count))
        self.facts += appended.positions
        self.coming += appended.positions

    @precondition(lambda self: self.again or self.coming)
    @rule()
    def take(self) -> None:
        event = self.run(anext(self.events))
        assert event.position == (self.again.popleft() if self.again else self.coming.pop(0))
        self.out[event.position] = event
        self.seen.add(event.position)

    @precondition(lambda self: self.out)
    @rule(place=PLACE, skipped=st.booleans())
    def finish(self, place: int, skipped: bool) -> None:
        event = self.out.pop(self.one_of(self.out, place))
        self.run(self.subscription.nack(event, "skip", "no") if skipped else self.subscription.ack(event))
        self.done.add(event.position)
        self.parked.discard(event.position)

    @precondition(lambda self: self.out)
    @rule(place=PLACE)
    def park(self, place: int) -> None:
        event = self.out.pop(self.one_of(self.out, place))
        self.run(self.subscription.nack(event, "park", "not like this"))
        self.parked.add(event.position)

    @precondition(lambda self: self.waiting())
    @rule(place=PLACE)
    def retry(self, place: int) -> None:
        position = self.one_of(self.waiting(), place)
        assert self.run(self.store.retry_parked(NAME, Position(position))) == 1
        self.again.append(position)

    def waiting(self) -> set[int]:
        """Parked, and not asked for."""
        return self.parked - set(self.again) - set(self.out)

    @precondition(lambda self: self.waiting())
    @rule(place=PLACE)
    def drop(self, place: int) -> None:
        position = self.one_of(self.waiting(), place)
        assert self.run(self.store.drop_parked(NAME, Position(position), reason="an old one")) == 1
        self.parked.discard(position)
        self.dropped.add(position)

    @rule()
    def leave_and_come_back(self) -> None:
        self.leave()
        self.come()

    def leave(self) -> None:
        self.run(self.visit.__aexit__(None, None, None))
        first_out = min((each for each in self.out if each not in self.parked), default=None)
        wanted = self.subscription.position if first_out is None else first_out - 1
        self.checkpoint = max(self.checkpoint, wanted)
        assert self.run(self.store.checkpoint(NAME)) in (self.checkpoint, None if self.checkpoint == 0 else -1)
        self.out.clear()

    # ── invariants ───────────────────────────────────────────────────────────────────────────────────────────────────
    @invariant()
    def nothing_below_the_checkpoint_is_undone(self) -> None:
        settled = self.done | self.parked | self.dropped
        assert [each for each in self.facts if each <= self.checkpoint and each not in settled] == []

    @invariant()
    def what_is_parked_is_listed(self) -> None:
        if hasattr(self, "store"):
            assert {each.position for each in self.listed()} == self.parked

    def teardown(self) -> None:
        """Whoever goes on to the end has seen every fact."""
        try:
            if hasattr(self, "store"):
                while self.again or self.coming:
                    self.take()
                assert self.seen == set(self.facts)
                self.run(self.visit.__aexit__(None, None, None))
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()


class MemorySubscriber(SubscriberMachine):
    async def make(self) -> Journal:
        return await self.stack.enter_async_context(InMemoryEventStore())


class SqliteSubscriber(SubscriberMachine):
    """It outlives the log's process, too."""

    async def make(self) -> Journal:
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        return await self.opened()

    async def opened(self) -> Journal:
        path = Path(self.folder) / "events.db"
        return await self.stack.enter_async_context(SqliteEventStore.open(path, durability="normal"))

    @rule()
    def restart(self) -> None:
        self.leave()
        self.run(self.store.close())
        self.store = self.run(self.opened())
        self.come()


TestMemorySubscriber = MemorySubscriber.TestCase
TestMemorySubscriber.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteSubscriber = SqliteSubscriber.TestCase
TestSqliteSubscriber.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
