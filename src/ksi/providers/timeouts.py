"""How long a stream may be silent: the limit to its first chunk, and between chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import msgspec

from ksi.core.errors import ProviderTimeoutError

T = TypeVar("T")


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds. ``first_token`` covers connecting, the provider's queue and reading the prompt; thoughts are tokens."""

    first_token: float = 120.0
    between_tokens: float = 30.0


DEFAULT_TIMEOUTS = Timeouts()


class Thinking:
    """A sign of life of a model that thinks before it says something."""


THINKING = Thinking()


async def patiently(
    chunks: AsyncGenerator[T | Thinking, None], timeouts: Timeouts, *, provider: str
) -> AsyncGenerator[T, None]:
    """``chunks``, which this owns and closes, without signs of life: who thinks is waited for as who speaks is.

    Raises:
        ProviderTimeoutError: No chunk came in time.
    """
    async with aclosing(chunks):
        seconds = timeouts.first_token
        while True:
            try:
                # Only around the wait: a scope that is open across a yield would cancel the consumer.
                async with asyncio.timeout(seconds):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ProviderTimeoutError(f"no token for {seconds:g} s", provider=provider, seconds=seconds) from None
            if not isinstance(chunk, Thinking):
                yield chunk
            seconds = timeouts.between_tokens
