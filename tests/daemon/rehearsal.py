"""A plugin that rehearses: the provider ``script`` says back what it was asked, once it is let."""

from __future__ import annotations

import asyncio

from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.providers.base import CompletionRequest, TextPart
from ksi.providers.desk import Desk, Offer
from ksi.providers.script import PROVIDER, ScriptProvider


class Rehearsal(AsyncPlugin):
    """Its provider answers one request at a time, and none before ``rehearsal:begin``."""

    name = "rehearsal"
    requires = (Desk,)

    async def initialize(self) -> None:
        self._asked, self._begun = asyncio.Event(), asyncio.Event()
        self._provider = ScriptProvider(_said, before_token=self._wait)
        offer = Offer(name=PROVIDER, make=lambda: self._provider, models=(PROVIDER,), concurrent=1)
        self.host.services.get(Desk).offers[PROVIDER] = offer

    @query("rehearsal:asked")
    async def asked(self) -> None:
        """Answers when the provider has been asked."""
        await self._asked.wait()

    @query("rehearsal:begin", inline=True)
    def begin(self) -> None:
        self._begun.set()

    async def _wait(self, index: int) -> None:
        self._asked.set()
        await self._begun.wait()


def _said(request: CompletionRequest) -> str:
    return "You said: " + "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))
