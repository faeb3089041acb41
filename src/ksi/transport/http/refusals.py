"""Errors in the words of OpenAI's and Anthropic's packages, for paths where those ask."""

from __future__ import annotations

from typing import Any

import msgspec

from ksi.core.errors import KSIError
from ksi.transport.http.exchange import Answer, Exchange
from ksi.transport.http.problems import status_of


def told(error: KSIError) -> dict[str, Any]:
    """Both find in it what they look for."""
    said = {"type": error.code, "code": error.code, "message": error.message, "param": None}
    return {"type": "error", "error": said, "details": error.details()}


async def refuse(exchange: Exchange, error: KSIError) -> None:
    """Answer with ``error``; the packages try again only where that may help. An answer that has begun breaks off."""
    if exchange.is_answered:
        exchange.abort()
        return
    retry = (b"x-should-retry", b"true" if error.retryable else b"false")
    body = msgspec.json.encode(told(error), enc_hook=str)
    await exchange.answer(Answer(status=status_of(type(error)), body=body, headers=[retry]))
