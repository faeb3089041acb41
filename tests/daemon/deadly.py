"""A plugin that ends its process at the step that the file ``die`` in its home names, once."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from ksi.core.events import NewEvent
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.router import Router
from tests.daemon.ledger import OUTSIDE, write_line

DIE = "die"
STEPS = 4
EXIT_CODE = 9


class Deadly(AsyncPlugin):
    name = "deadly"

    async def initialize(self) -> None:
        self._gate = asyncio.Event()

    # ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @event("deadly:pay", durability="before")
    async def pay(self, number: int, context: EventContext) -> str:
        return await self._two_effects(number, context, idempotent=False)

    @event("deadly:pay_again", durability="before", on_crash="rerun")
    async def pay_again(self, number: int, context: EventContext) -> str:
        return await self._two_effects(number, context, idempotent=True)

    @event("deadly:pay_rerun", durability="before", on_crash="rerun")
    async def pay_rerun(self, number: int, context: EventContext) -> str:
        """Runs again, but its second effect may not."""
        return await self._two_effects(number, context, idempotent=False)

    async def _two_effects(self, number: int, context: EventContext, *, idempotent: bool) -> str:
        for step in ("first", "second"):
            await context.effect(f"world:{step}", number, partial(self._act, step, number), idempotent=idempotent)
        return "paid"

    async def _act(self, step: str, number: int) -> None:
        write_line(self._home / OUTSIDE, f"{step} {number}")
        self._die_at(f"{step} {number}")

    # ── a process that ends whenever this runs ───────────────────────────────────────────────────────────────────────
    @event("deadly:always")
    async def always(self) -> None:
        write_line(self._home / OUTSIDE, "run")
        os._exit(EXIT_CODE)

    # ── nested commands, emits ───────────────────────────────────────────────────────────────────────────────────────
    @event("deadly:chain")
    async def chain(self, number: int, context: EventContext) -> int:
        """Some nested commands one after another; answers how many."""
        for step in range(STEPS):
            await context.request("counter:add", name=f"{number}.{step}")
            self._die_at(f"{number}.{step}")
        return STEPS

    @event("deadly:note")
    async def note(self, number: int, context: EventContext) -> None:
        """The process ends when its emit, which is on disk with it by then, is about to start."""
        context.emit("ledger:echo", number=number)
        self.host.services.get(Router).recorded.start = lambda *_: os._exit(EXIT_CODE)  # type: ignore[method-assign]

    # ── one that waits ───────────────────────────────────────────────────────────────────────────────────────────────
    @event("deadly:wait")
    async def wait(self, number: int, context: EventContext) -> int:
        """Answers once ``deadly:open`` was asked for."""
        write_line(self._home / OUTSIDE, f"wait {number}")
        await self._gate.wait()
        context.append(f"waited/{number}", NewEvent(name="deadly:waited", data={}))
        return number

    @event("deadly:open", inline=True)
    def open_gate(self) -> None:
        self._gate.set()

    @property
    def _home(self) -> Path:
        assert self.host.home is not None
        return self.host.home

    def _die_at(self, step: str) -> None:
        file = self._home / DIE
        if file.exists() and file.read_text() == step:
            file.unlink()
            os._exit(EXIT_CODE)
