"""How long a silence may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from ksi.core.errors import ProviderTimeoutError
from ksi.providers.timeouts import THINKING, Thinking, Timeouts, patiently

pytestmark = pytest.mark.virtual
LIMITS = Timeouts(first_token=120.0, between_tokens=30.0)


async def said(*moments: tuple[float, str | Thinking]) -> AsyncGenerator[str | Thinking, None]:
    for seconds, chunk in moments:
        await asyncio.sleep(seconds)
        yield chunk


async def test_who_thinks_is_waited_for_as_who_speaks_is_and_its_thoughts_are_kept_back() -> None:
    thoughts = [(29.0, THINKING)] * 10
    chunks = patiently(said((119.0, THINKING), *thoughts, (29.0, "a"), (29.0, "b")), LIMITS, provider="p")
    assert [chunk async for chunk in chunks] == ["a", "b"]


async def test_a_thought_is_no_longer_waited_for_than_a_token() -> None:
    async with aclosing(patiently(said((1.0, THINKING), (31.0, "late")), LIMITS, provider="p")) as chunks:
        with pytest.raises(ProviderTimeoutError) as caught:
            await anext(chunks)
    assert caught.value.seconds == 30.0
