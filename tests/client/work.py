"""The plugin that clients of every kind are tested with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from ksi.core.events import fact
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, event, query, stream
from ksi.kernel.plugin import AsyncPlugin


@fact("work:done")
class Done(msgspec.Struct, frozen=True):
    """A number was worked on."""

    number: int


@fact("work:written")
class Written(msgspec.Struct, frozen=True):
    """Something was written."""

    text: str


class Work(AsyncPlugin):
    """What is asked over each way; it says what became of it."""

    name = "work"

    async def initialize(self) -> None:
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.said: list[str] = []
        self.made = 0

    @event("work:do", key=lambda _: "work")
    async def do(self, number: int, context: EventContext) -> int:
        """Do it once."""
        context.append("work/all", Done(number))
        return number

    @event("work:write")
    async def write(self, size: int, context: EventContext) -> None:
        """Record something of that size."""
        context.append("work/all", Written("x" * size))

    @stream("work:large", record=False)
    async def large(self, size: int) -> AsyncIterator[str]:
        """Say something of that size."""
        yield "x" * size

    @query("work:log")
    async def log(self) -> list[str]:
        """What was said."""
        return self.said

    @query("work:wait")
    async def wait(self) -> str:
        """Wait until the test opens the gate."""
        return await self._held("query")

    @event("work:hold")
    async def hold(self) -> str:
        """The same as a command."""
        return await self._held("command")

    @stream("work:count", on_disconnect="detach")
    async def count(self, to: int) -> AsyncIterator[int | End[str]]:
        """Count, whoever listens."""
        for number in range(1, to + 1):
            yield number
            if number % 8 == 0:
                await asyncio.sleep(0.01)
        yield End("counted")

    @stream("work:talk")
    async def talk(
        self, silent: bool = False, to: int = 1_000_000
    ) -> AsyncIterator[dict[str, str] | End[dict[str, int]]]:
        """Talk, for one who listens; a cancel is answered with what was used."""
        self.began.set()
        try:
            if silent:
                await self.gate.wait()
            for number in range(to):
                self.made = number + 1
                yield {"text": f"word {number}"}
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.said.append("stream cancelled")
            yield End({"used": self.made})
            raise
        self.said.append("stream ended")
        yield End({"used": self.made})

    async def _held(self, what: str) -> str:
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.said.append(f"{what} cancelled")
            raise
        return "open"
