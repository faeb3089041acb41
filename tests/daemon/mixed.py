"""A plugin with handlers of every kind and speed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin


class Mixed(AsyncPlugin):
    name = "mixed"

    async def initialize(self) -> None:
        self._order: dict[str, list[int]] = defaultdict(list)
        self._both = asyncio.Barrier(2)
        self._ended: list[str] = []
        self._left: list[asyncio.Task[bool]] = []
        self._gate = asyncio.Event()

    # ── speeds ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @query("mixed:inline", inline=True)
    def inline(self, number: int) -> int:
        return number

    @query("mixed:turns")
    async def turns(self, number: int) -> int:
        """Takes some turns of the loop, more or fewer."""
        for _ in range(number % 7):
            await asyncio.sleep(0)
        return number

    @query("mixed:slow")
    async def slow(self, number: int) -> int:
        await asyncio.sleep(0.001 * (number % 20))
        return number

    @query("mixed:thread", blocking=True)
    def thread(self, number: int) -> int:
        return sum(1 for _ in range(number))

    @event("mixed:keyed", key=lambda request: request.key)
    async def keyed(self, key: str, number: int) -> int:
        await asyncio.sleep(0)
        self._order[key].append(number)
        return number

    @query("mixed:order", inline=True)
    def order(self) -> dict[str, list[int]]:
        return self._order

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("mixed:tally", key=lambda request: "tally")
    async def tally(self, context: EventContext) -> int:
        """Reads and sets, each by a nested request."""
        before = await context.request("state:get", key="tally")
        value = (before["value"] or 0) + 1
        await context.request("state:set", key="tally", value=value)
        return value

    @event("mixed:nested", key=lambda request: request.key)
    async def nested(self, key: str, depth: int, context: EventContext) -> int:
        """Asks for itself, under the key that it holds."""
        return 0 if depth == 0 else 1 + await context.request("mixed:nested", key=key, depth=depth - 1)

    @event("mixed:cross", key=lambda request: request.mine)
    async def cross(self, mine: str, other: str, context: EventContext) -> str:
        """Holds one key and wants the other, once somebody else does so too."""
        await self._both.wait()
        await context.request("mixed:keyed", key=other, number=0)
        return mine

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @stream("mixed:count")
    async def count(self, name: str, to: int, size: int = 0) -> AsyncIterator[int | str | End[int]]:
        """Numbers, one a turn, padded to ``size``; remembers how it ended."""
        try:
            for number in range(to):
                yield "x" * size if size else number
                await asyncio.sleep(0)
            yield End(to)
        except BaseException as error:
            self._ended.append(f"{name} {type(error).__name__}")
            raise

    @stream("mixed:endless")
    async def endless(self, name: str) -> AsyncIterator[int | End[int]]:
        """One chunk, then nothing any more."""
        try:
            yield 0
            await asyncio.Event().wait()
        except BaseException as error:
            self._ended.append(f"{name} {type(error).__name__}")
            raise

    @query("mixed:ended", inline=True)
    def ended(self) -> list[str]:
        return self._ended

    # ── one that waits ───────────────────────────────────────────────────────────────────────────────────────────────
    @event("mixed:wait")
    async def wait(self, name: str, context: EventContext) -> str:
        """Answers once ``mixed:open`` was asked for."""
        await self._gate.wait()
        await context.request("state:set", key=name, value=name)
        return name

    @query("mixed:open", inline=True)
    def open_gate(self) -> None:
        """A query, so that it is served while the daemon stops."""
        self._gate.set()

    @query("mixed:tasks", inline=True)
    def tasks(self) -> int:
        """How many tasks the daemon has."""
        return len(asyncio.all_tasks())

    @query("mixed:leak")
    async def leak(self) -> None:
        """Leaves one behind."""
        self._left.append(asyncio.create_task(asyncio.Event().wait()))

    @query("mixed:none")
    async def none(self) -> str | None:
        return None

    @query("mixed:empty")
    async def empty(self) -> dict[str, int]:
        return {}

    @query("mixed:raises")
    async def raises(self) -> None:
        raise RuntimeError("on purpose")

    @query("mixed:large", inline=True)
    def large(self, size: int) -> str:
        return "x" * size
