"""What a completion has used, also of one that was stopped, or cut off by a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from ksi.core import canonical
from ksi.core.errors import CancelledError
from ksi.core.events import Filter
from ksi.core.ports import EventLog
from ksi.kernel.resume import ended
from ksi.kernel.router import Router
from ksi.providers.base import CompletionRequest, Usage, estimate_usage

NOTHING = Usage(input_tokens=0, output_tokens=0)


def added(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        estimated=one.estimated or other.estimated,
    )


async def used(completion: UUID, router: Router, log: EventLog) -> Usage:
    """Wait for the end of ``completion``, and say what it used: its own count, else its chunks, one token each."""
    answer = await _end(completion, router)
    if isinstance(usage := answer.get("usage"), Mapping):
        return msgspec.convert(usage, Usage)
    return await estimated(completion, log, (await router.known_request(completion.bytes)).request.branch)


async def estimated(completion: UUID, log: EventLog, branch: str) -> Usage:
    """What is seen of it from ``branch``: its chunks, one token each."""
    request = await _asked(completion, log, branch)
    return NOTHING if request is None else estimate_usage(request, output_tokens=await _chunks(completion, log, branch))


async def _end(completion: UUID, router: Router) -> Mapping[str, Any]:
    """Its answer, or what there is of one that was cancelled."""
    running = router.running.get(completion.bytes)
    if running is not None and not running.answered:
        over = asyncio.Event()
        running.watch(lambda *_: over.set(), None)
        await over.wait()
    outcome = (await router.known_request(completion.bytes)).outcome
    if outcome is None:
        return {}
    raw, error = ended(outcome)
    answer = error.partial if isinstance(error, CancelledError) else canonical.decode(raw or b"{}")
    return answer or {}


async def _asked(completion: UUID, log: EventLog, branch: str) -> CompletionRequest | None:
    """What was sent to the provider that was asked last; None where none was called."""
    query = (Filter(names=("effect:requested",), kinds=("request",), causation_id=completion),)
    asked = None
    async for event in log.read_all(query, branch=branch):
        if not event.is_erased and event.data["effect"] == "llm:stream":
            asked = event.data["request"]["request"]
    return None if asked is None else msgspec.convert(asked, CompletionRequest)


async def _chunks(completion: UUID, log: EventLog, branch: str) -> int:
    stream = log.read_stream(f"completion/{completion}", branch=branch)
    return sum([event.kind == "chunk" async for event in stream])
