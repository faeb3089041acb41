"""The two ways in which a server of MCP asks KSI: in the daemon itself, or over the client's socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from ksi.client.client import EventClient
from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.threads import settle
from ksi.kernel.declare import End
from ksi.kernel.door import Session
from ksi.kernel.pulled import Pulled
from ksi.kernel.router import Router


class Asking(Protocol):
    """KSI, as whoever calls tools sees it. Both raise what the event raises."""

    async def ask(self, event: str, data: Mapping[str, Any]) -> Any:
        """The answer of an event."""

    def stream(self, event: str, data: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Chunks, then ``End(answer)``; closing it cancels."""


class RouterAsking:
    """In the daemon, with the rights of a session."""

    def __init__(self, router: Router, session: Session) -> None:
        self._router = router
        self._session = session

    async def ask(self, event: str, data: Mapping[str, Any]) -> Any:
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        envelope = self._envelope(event, data)
        self._router.dispatch(envelope, self._session, lambda _, raw, error: settle(answered, raw, error), None)
        return canonical.decode(await answered)

    async def stream(self, event: str, data: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        pulled = Pulled()
        opening = partial(self._router.open_stream, self._envelope(event, data), self._session)
        async with aclosing(pulled.chunks(opening)) as chunks:
            async for chunk in chunks:
                yield chunk
        yield End(pulled.answer)

    def _envelope(self, event: str, data: Mapping[str, Any]) -> EventEnvelope:
        return EventEnvelope.create(event, data, "mcp", principal=self._session.principal)


class ClientAsking:
    """From another process."""

    def __init__(self, client: EventClient) -> None:
        self._client = client

    async def ask(self, event: str, data: Mapping[str, Any]) -> Any:
        return await self._client.request(event, data)

    async def stream(self, event: str, data: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        async with self._client.stream(event, data) as stream:
            async for chunk in stream:
                yield chunk.data
        yield End(stream.end)
