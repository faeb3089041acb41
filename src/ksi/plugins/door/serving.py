"""A door as HTTP sees it: the request is taken in whole, the answer goes out part by part as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Receive, Scope, Send

from ksi.core.errors import KSIError, NotFoundError
from ksi.plugins.door.doors import Door, Headers
from ksi.plugins.door.shapes import Asked, Bytes, Head, Protocol
from ksi.transport.http.exchange import Answer, Exchange, Gone
from ksi.transport.http.problems import status_of

if TYPE_CHECKING:
    from ksi.plugins.door.plugin import Doors

BODY_BYTES_MAX = 32 << 20
"""A request with pictures; it stands in the log."""
PLACES: dict[str, Protocol] = {"v1": "openai", "anthropic": "anthropic"}
"""What stands behind the token in the path, and whose protocol is spoken there."""


async def serve(doors: Doors, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request of a script."""
    exchange = Exchange(scope, receive, send)
    try:
        door = doors.door(exchange.parameter("token"))
        asked = _asked(exchange, door.run, await exchange.body(BODY_BYTES_MAX))
        await _unless_gone(exchange, _pour(exchange, door, asked))
    except Gone:
        return
    except KSIError as error:
        await _refuse(exchange, error)


def _asked(exchange: Exchange, run: str, body: bytes) -> Asked:
    # Of the raw path: what a client has quoted goes on as it is.
    raw_path: bytes = exchange.scope["raw_path"]
    _, _, _, place, *path = raw_path.decode("latin-1").partition("?")[0].split("/")
    if place not in PLACES:
        raise NotFoundError("page", exchange.path)
    return Asked(
        run=run,
        protocol=PLACES[place],
        method=exchange.method,
        path="/".join(path),
        query=exchange.query.decode("latin-1"),
        body=Bytes.of(body),
    )


async def _pour(exchange: Exchange, door: Door, asked: Asked) -> None:
    async with aclosing(door.answer(asked, _headers(exchange))) as parts:
        async for part in parts:
            if isinstance(part, Head):
                headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in part.headers]
                await exchange.start(part.status, headers)
            else:
                await exchange.write(part.body.raw())
    await exchange.write(b"", is_last=True)


def _headers(exchange: Exchange) -> Headers:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.scope["headers"]]


async def _unless_gone(exchange: Exchange, pouring: Coroutine[Any, Any, None]) -> None:
    """Have it done; where the script hangs up first, stop it."""
    task = asyncio.ensure_future(pouring)
    leaving = asyncio.ensure_future(exchange.gone())
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    if task.cancelled():
        raise Gone
    await task


async def _refuse(exchange: Exchange, error: KSIError) -> None:
    """In words that the packages of both protocols read; they try again only where that may help."""
    if exchange.is_answered:
        exchange.abort()
        return
    said = {"type": error.code, "code": error.code, "message": error.message, "param": None}
    body = {"type": "error", "error": said, "details": error.details()}
    retry = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    await exchange.answer(
        Answer(status=status_of(type(error)), body=msgspec.json.encode(body, enc_hook=str), headers=retry)
    )
