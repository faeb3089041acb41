"""A door as HTTP sees it: the request is taken in whole, the answer goes out part by part as it comes."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from ksi.core.errors import KSIError
from ksi.plugins.door.doors import Door
from ksi.plugins.door.shapes import Asked, Bytes, Head, Protocol
from ksi.plugins.door.unsaid import Unsaid, without_keys
from ksi.transport.http.exchange import Exchange, Gone
from ksi.transport.http.refusals import refuse

if TYPE_CHECKING:
    from ksi.plugins.door.plugin import Doors

BODY_BYTES_MAX = 32 << 20
"""A request with pictures; it stands in the log."""
PLACES: dict[str, Protocol] = {"v1": "openai", "anthropic": "anthropic"}
"""What stands behind the token in the path, and whose protocol is spoken there. All else is beside ``/v1``."""


async def serve(doors: Doors, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request of a script."""
    exchange = Exchange(scope, receive, send)
    try:
        door = doors.door(exchange.parameter("token"))
        async with exchange.held_body(BODY_BYTES_MAX) as body:
            await exchange.while_there(_pour(exchange, door, _asked(exchange, door.run, body)))
    except Gone:
        return
    except KSIError as error:
        await refuse(exchange, error)


def _asked(exchange: Exchange, run: str, body: bytes) -> Asked:
    # Of the raw path: what a client has quoted goes on as it is.
    raw_path: bytes = exchange.scope["raw_path"]
    _, _, _, place, *path = raw_path.decode("latin-1").partition("?")[0].split("/")
    is_beside = place not in PLACES
    return Asked(
        run=run,
        protocol=PLACES.get(place, "openai"),
        method=exchange.method,
        path="/".join([place, *path] if is_beside else path),
        is_beside=is_beside,
        query=without_keys(exchange.query.decode("latin-1")),
        body=Bytes.of(body),
    )


async def _pour(exchange: Exchange, door: Door, asked: Asked) -> None:
    async with aclosing(door.answer(asked, _unsaid(exchange))) as parts:
        async for part in parts:
            if isinstance(part, Head):
                headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in part.headers]
                await exchange.start(part.status, headers)
            else:
                await exchange.write(part.body.raw())
    await exchange.write(b"", is_last=True)


def _unsaid(exchange: Exchange) -> Unsaid:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.scope["headers"]]
    return Unsaid(headers, exchange.query.decode("latin-1"))
