"""``EventClient``: requests, streams and subscriptions over a Unix socket, a WebSocket or HTTP.

::

    async with EventClient() as client:
        await client.request("state:set", key="a", value=1)
        async for chunk in client.stream("completion:create", prompt="Once"):
            print(chunk.data["text"], end="")
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from ksi.client.endpoints import endpoint_of
from ksi.client.exchange import Exchange
from ksi.client.names import Namespace, event_part
from ksi.client.options import DEFAULT
from ksi.client.options import Options as Options
from ksi.client.requests import Payload, PendingRequest, request_of
from ksi.client.spawn import start_daemon
from ksi.client.streams import Chunk as Chunk
from ksi.client.streams import EventStream, SubscriptionStream
from ksi.core import canonical
from ksi.core.clock import SystemClock
from ksi.core.errors import KSIError, KSITimeoutError
from ksi.core.events import MAIN
from ksi.core.home import Home
from ksi.core.result import Failure, Result, Success
from ksi.wire.frames import Request

TIMEOUT = 300.0
"""Seconds after which a request without a limit of its own is given up, should the daemon hang."""
TIMEOUT_GRACE = 1.0
"""Seconds in which the daemon's own answer to a passed deadline may still arrive."""

_CLOCK = SystemClock()
_log = logging.getLogger("ksi.client")
Handler = Callable[[Any], Awaitable[None] | None]
After = Literal["start", "end", "checkpoint"] | str


class Receipt(msgspec.Struct, frozen=True):
    """What one has of a detached request: it is on disk, and runs."""

    event_id: str
    correlation_id: str


class Subscription:
    """A handler that is called for events, until :meth:`unsubscribe`."""

    def __init__(self, stream: SubscriptionStream, handler: Handler) -> None:
        self._stream = stream
        self._handler = handler
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def unsubscribe(self) -> None:
        """The handler is not called any more when this returns."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        async with self._stream as stream:
            async for chunk in stream:
                await self._handle(chunk.data)

    async def _handle(self, event: Any) -> None:
        try:
            answer = self._handler(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # noqa: BLE001  # foreign code: its fault with one event must not cost it the others
            _log.exception("a handler of events failed")


class EventClient:
    """A client of the daemon in ``home`` (default: as the CLI chooses it), or at ``where``.

    ``where`` is the path of a socket, ``http://127.0.0.1:7474`` or ``ws://127.0.0.1:7474/v1/ws``.

    Every method raises the daemon's own error, KSIConnectionError where it can not be reached, and KSITimeoutError
    where it does not answer. After a lost connection requests are sent again under their event ids, streams and
    subscriptions go on after the last address, for at most ``reconnect_timeout`` seconds.
    """

    def __init__(
        self,
        where: str | Path | None = None,
        *,
        home: str | Path | None = None,
        start: bool = False,
        name: str | None = None,
        token: str | None = None,
        branch: str = MAIN,
        reconnect_timeout: float = 10.0,
    ) -> None:
        """What the daemon is told, and whether it is started.

        Args:
            start: Start the daemon of the home where none answers.
            name: Becomes the source of the requests.
            branch: Of the log, where a request's options say none.
            token: Makes the client its principal; default ``KSI_TOKEN``, else it is the user of the process, whom
                only the Unix socket knows.
        """
        self._home = Home.choose(home, os.environ)
        self._may_start = start and where is None
        self._branch = branch
        endpoint = endpoint_of(
            self._home.socket if where is None else where,
            name=name,
            token=token or os.environ.get("KSI_TOKEN"),
            reconnect_timeout=reconnect_timeout,
        )
        self._exchange = Exchange(endpoint, reconnect_timeout=reconnect_timeout)
        self._subscriptions: list[Subscription] = []

    async def connect(self) -> Self:
        """Connect now.

        Raises:
            KSIConnectionError: Nobody answers, or the daemon could not be started.
        """
        if self._may_start:
            await asyncio.to_thread(start_daemon, self._home)
        await self._exchange.open()
        return self

    async def close(self) -> None:
        """End subscriptions; whatever still waits fails."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.unsubscribe()
        await self._exchange.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def request(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> Any:
        """Ask and wait for the answer, as builtins. All keywords but ``options`` are payload.

        When the task that waits is cancelled, the daemon cancels the request.
        """
        options = options or DEFAULT
        return canonical.decode(await self._answer(request_of(event, data, fields, options, _CLOCK, self._branch)))

    async def try_request(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> Result[Any, KSIError]:
        """The same, with the error as a value."""
        try:
            return Success(await self.request(event, data, options=options, **fields))
        except KSIError as error:
            return Failure(error)

    async def send(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> Receipt:
        """Have it done, whatever becomes of this client; returns when the request is on disk."""
        request = request_of(event, data, fields, options or DEFAULT, _CLOCK, self._branch)
        request.reply = False
        return msgspec.json.decode(await self._answer(request), type=Receipt)

    async def _answer(self, request: Request) -> msgspec.Raw:
        call = PendingRequest(request)
        frame_id = self._exchange.start(call)
        limit = TIMEOUT if request.timeout is None else request.timeout + TIMEOUT_GRACE
        expiry = asyncio.get_running_loop().call_later(
            limit, call.failed, KSITimeoutError(f"{request.event} had no answer for {limit:g} s")
        )
        try:
            return await call.answer
        except (asyncio.CancelledError, KSITimeoutError):
            self._exchange.abandon(frame_id)
            raise
        finally:
            expiry.cancel()

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def stream(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> EventStream:
        """The answer in chunks; the request leaves with the first step of the loop, or with ``async with``."""
        options = options or DEFAULT
        request = request_of(event, data, fields, options, _CLOCK, self._branch)
        request.stream = True
        return EventStream(self._exchange, request, buffer_size=options.buffer_size)

    def resume(self, address: str, *, options: Options | None = None) -> EventStream:
        """The chunks after ``address`` (``stream@version``), then what comes, then the end; never a second run."""
        stream = EventStream(self._exchange, Request(resume=address), buffer_size=(options or DEFAULT).buffer_size)
        stream.at = address
        return stream

    def subscribe(
        self, pattern: str, *, after: After = "end", options: Options | None = None, **fields: Any
    ) -> SubscriptionStream:
        """Recorded events that match, from ``after`` on: "start", "end", "checkpoint" or an address, then live.

        Each chunk's data is an event as an object, with its ``position``. ``fields`` go to ``event:subscribe``. With a
        ``subscriber``, whose checkpoint the daemon keeps, one event is under way at a time, whatever the options say:
        it counts as done when the next one is asked for; over HTTP, which has no credit, when the connection took it.
        """
        options = options or DEFAULT
        buffer_size = 1 if "subscriber" in fields else options.buffer_size
        request = request_of(
            "event:subscribe", {"pattern": pattern, "after": after, **fields}, {}, options, _CLOCK, self._branch
        )
        request.stream = True
        return SubscriptionStream(self._exchange, request, buffer_size=buffer_size)

    async def stream_event(self, event_name: str, data: Payload = None, buffer_size: int = 10) -> AsyncIterator[Any]:
        """The data of each chunk."""
        options = Options(buffer_size=buffer_size)
        async with self.stream(event_name, data, options=options) as stream:
            async for chunk in stream:
                yield chunk.data

    async def subscribe_to_events(self, pattern: str, handler: Handler) -> Subscription:
        """Call ``handler`` with every event that matches from now on, one after the other."""
        subscription = Subscription(self.subscribe(pattern).open(), handler)
        self._subscriptions.append(subscription)
        return subscription

    def __getattr__(self, name: str) -> Namespace:
        return Namespace(self.request, event_part(name))
