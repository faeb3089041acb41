"""A harness whose completions come from scripts: declared answers, and gates where a test wants to stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ksi.core.ports import Journal
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.completion import Completion
from ksi.plugins.conversation import Conversation
from ksi.providers.base import CompletionRequest, Provider, TextPart
from ksi.providers.desk import CONCURRENT, QUEUE_SIZE_MAX, Desk, Offer
from ksi.providers.prices import Price
from ksi.providers.script import PROVIDER, Answers, BeforeToken, ScriptProvider
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Timeouts
from ksi.testing.harness import EventTestHarness, HarnessStream

STORY = "Once upon a time there was a small fox who lived by the sea."


class Gate:
    """Lets ``passing`` tokens through, those of all streams counted, then holds each until it is opened."""

    def __init__(self, *, passing: int = 0) -> None:
        self.reached = asyncio.Event()
        self._left = passing
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    def shut(self, *, passing: int) -> None:
        """Hold again, after so many tokens."""
        self.reached.clear()
        self._open.clear()
        self._left = passing

    async def __call__(self, index: int) -> None:
        if self._left > 0:
            self._left -= 1
            return
        self.reached.set()
        await self._open.wait()


def asked_text(request: CompletionRequest) -> str:
    """What was said last, as text."""
    return "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))


def echo(request: CompletionRequest) -> str:
    return f"You said: {asked_text(request)}"


def script(answers: Answers = echo, *, gate: BeforeToken | None = None) -> ScriptProvider:
    return ScriptProvider(answers, before_token=gate)


def harness(
    *providers: Provider,
    more: Sequence[type[AsyncPlugin]] = (),
    concurrent: int = CONCURRENT,
    queue_size_max: int = QUEUE_SIZE_MAX,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    models: tuple[str, ...] = (PROVIDER,),
    log: Journal | None = None,
    failover: tuple[str, ...] = (),
    home: Path | None = None,
    prices: Mapping[str, Price] | None = None,
    overhead_tokens: int = 0,
) -> EventTestHarness:
    """A KSI that asks ``providers``, the first by default; they outlive its crashes, as a remote one would."""
    offers = [
        Offer(
            name=provider.name,
            make=partial(_itself, provider),
            models=models,
            concurrent=concurrent,
            overhead_tokens=overhead_tokens,
        )
        for provider in providers
    ]

    class OwnDesk(AsyncPlugin):
        name = "own-desk"
        provides = (Desk,)

        def services(self) -> Mapping[type, Any]:
            return {
                Desk: Desk(
                    offers,
                    default=offers[0].name,
                    queue_size_max=queue_size_max,
                    timeouts=timeouts,
                    failover=failover,
                    prices=prices,
                )
            }

    return EventTestHarness(OwnDesk, Conversation, Completion, *more, log=log, home=home)


def _itself(provider: Provider) -> Provider:
    return provider


async def take(stream: HarnessStream, count: int) -> str:
    """The text of the next ``count`` chunks."""
    chunks = aiter(stream)
    return "".join([(await anext(chunks))["text"] for _ in range(count)])


async def rest(stream: HarnessStream) -> str:
    """The text of all that still comes."""
    return "".join([chunk["text"] async for chunk in stream])


async def chunks_of(ksi: EventTestHarness, completion: str) -> list[str]:
    """What the log holds of a completion's text."""
    events = ksi.log.read_stream(f"completion/{completion}")
    return [event.data["text"] async for event in events if event.kind == "chunk"]


async def until_queued(ksi: EventTestHarness, count: int) -> list[str]:
    """Wait until so many completions wait for their turn or their place; their ids, in that order."""
    async with asyncio.timeout(5):
        while True:
            status = await ksi.request("completion:status")
            if status["queued"] == count:
                return [shown["completion"] for shown in status["completions"] if shown["status"] == "queued"]
            await asyncio.sleep(0)
