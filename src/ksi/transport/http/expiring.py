"""An answer of an application that was begun ends with the token that it was asked for with."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Message

from ksi.transport.http.exchange import Exchange
from ksi.transport.lapsing import Lapsed, Tokens


class Expiring:
    """The way of an application's answer; ``scope["state"]["expiring"]`` of the application.

    From the first word of the answer on its token has to count. Then the connection is broken off, unless the
    application has a better way to end.
    """

    def __init__(self, exchange: Exchange, tokens: Tokens) -> None:
        self._exchange = exchange
        self._tokens = tokens
        self._stop: Callable[[], None] | None = None
        self._ending: Lapsed = lambda _: exchange.abort()

    def end_by(self, ending: Lapsed) -> None:
        """Let ``ending`` end the answer."""
        self._ending = ending

    async def send(self, message: Message) -> None:
        """As ASGI's."""
        if self._stop is None:
            self._stop = self._tokens.watch(self._exchange.token, lambda error: self._ending(error))
        await self._exchange.send(message)

    def close(self) -> None:
        """The application has returned."""
        if self._stop is not None:
            self._stop()
