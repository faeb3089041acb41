"""What a provider had written when its reader left: it counts, read or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Literal, Protocol, runtime_checkable

from ksi.core.errors import KSIError
from ksi.providers.base import AnyChunk


@runtime_checkable
class WritesAhead(Protocol):
    """A provider that goes on writing while nobody reads."""

    writes_ahead: Literal[True]


DRAIN_TIMEOUT = 0.1
"""Seconds: enough for what has come already; meanwhile the provider still writes, and that is read too."""


async def drained(
    chunks: AsyncGenerator[AnyChunk, None], overhear: Callable[[AnyChunk], None]
) -> AsyncGenerator[AnyChunk, None]:
    """``chunks``, which this owns; of a reader that leaves ``overhear`` is told what it had not read yet."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except GeneratorExit:
            with suppress(TimeoutError, KSIError):
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    async for chunk in chunks:
                        overhear(chunk)
            raise
