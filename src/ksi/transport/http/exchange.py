"""One HTTP request and its answer, as ASGI hands them over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
from starlette.types import Message, Receive, Scope, Send

from ksi.core.errors import KSIError, PayloadTooLargeError
from ksi.kernel.door import Session
from ksi.transport.http.problems import Headers, problem

JSON = b"application/json"


class Carrying(Protocol):
    """The connection that a request came on."""

    def abort(self) -> None:
        """Close now; what is not written is lost."""

    def narrow(self) -> None:
        """Hold little of what the client does not read."""

    async def taken(self) -> None:
        """Return when the system has taken all that was written."""

    def ahead(self) -> int:
        """Bytes that were written and that the client has not read, as far as one can know."""

    def room(self) -> int | None:
        """Bytes that the client's system offers to take; None: it has not confirmed all that it took."""


class Holding(Protocol):
    """Where bytes of requests are counted; ``scope["state"]["holding"]`` of an application."""

    def hold(self, size: int) -> None:
        """Count a request. Raises OverloadedError."""

    def release(self, size: int) -> None: ...


class Gone(Exception):
    """The client has left before it was answered; nobody reads what would be said."""


class Ending(Protocol):
    """What ends an application's answer; ``scope["state"]["expiring"]`` of an application."""

    def end_by(self, ending: Callable[[KSIError], None]) -> None:
        """Let ``ending`` end the answer."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    media: bytes = JSON
    headers: Headers = []


class Exchange:
    """A request: what came, who sent it, and the way back."""

    session: Session
    """Who asks; set once the guard has let it in."""
    token: str
    """With which; it may lapse before the answer is whole."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.is_answered = False
        self.receive = receive
        self.send = send

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def query(self) -> bytes:
        return bytes(self.scope["query_string"])

    @property
    def media(self) -> bytes:
        """The media type of what came, without its parameters; empty where nothing says it."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def accepts(self, media: bytes) -> bool:
        """Whether the client names ``media`` among what it takes."""
        return media in self.headers.get(b"accept", b"").lower()

    def query_value(self, name: str) -> str:
        """The last value of ``name`` in the query string; empty where there is none."""
        return parse_qs(self.query.decode("latin-1")).get(name, [""])[-1]

    @property
    def parameters(self) -> dict[str, str]:
        """The parts of the path that have names."""
        return {name: str(value) for name, value in self.scope["path_params"].items()}

    def parameter(self, name: str) -> str:
        return str(self.scope["path_params"][name])

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def body(self, limit: int) -> bytes:
        """What was sent, whole.

        Raises:
            PayloadTooLargeError: It is larger than ``limit`` bytes.
            Gone: The client left in the middle of it.
        """
        self._refuse_announced(limit)
        body = bytearray()
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            body += message["body"]
            if len(body) > limit:
                raise PayloadTooLargeError("body", size=None, limit=limit)
            if not message["more_body"]:
                return bytes(body)

    @asynccontextmanager
    async def held_body(self, limit: int) -> AsyncIterator[bytes]:
        """The same, counted among the bytes of requests that the daemon holds, until the end of the block.

        Raises: as :meth:`body`, and OverloadedError where no more of them fit.
        """
        self._refuse_announced(limit)
        holding: Holding = self.scope["state"]["holding"]
        size = self._size_at_most(limit)
        holding.hold(size)
        try:
            yield await self.body(limit)
        finally:
            holding.release(size)

    def _size_at_most(self, limit: int) -> int:
        if b"content-length" in self.headers:
            return int(self.headers[b"content-length"])
        return limit if b"transfer-encoding" in self.headers else 0

    def _refuse_announced(self, limit: int) -> None:
        announced = self.headers.get(b"content-length")
        if announced is not None and int(announced) > limit:
            raise PayloadTooLargeError("body", size=int(announced), limit=limit)

    async def gone(self) -> None:
        """Return when the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def unless_gone(self, answer: asyncio.Future[bytes], cancel: Callable[[], None]) -> bytes:
        """What ``answer`` brings; when the client leaves first, ``cancel``.

        Raises:
            Gone: It left.
        """
        leaving = asyncio.ensure_future(self.gone())
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if answer.done():
            return answer.result()
        answer.cancel()
        cancel()
        raise Gone

    async def while_there(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done; when the client leaves first, it is cancelled.

        Raises:
            Gone: It left.
        """
        task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self.gone())
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

    # ── what goes ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def answer(self, answer: Answer) -> None:
        """Answer with a whole body."""
        headers = [(b"content-type", answer.media), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
        await self.start(answer.status, headers)
        await self.send({"type": "http.response.body", "body": answer.body})

    async def fail(self, error: KSIError, status: int | None = None) -> None:
        """Answer with a problem."""
        chosen, body, headers = problem(error, status)
        await self.start(chosen, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        self.is_answered = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, is_last: bool = False) -> None:
        """Write a part of the body; waits while the client does not read."""
        message: Message = {"type": "http.response.body", "body": body, "more_body": not is_last}
        await self.send(message)

    def end_by(self, lapsed: Callable[[KSIError], None]) -> None:
        """Let ``lapsed`` end an application's answer that has begun, when the client's token counts no more."""
        expiring: Ending = self.scope["state"]["expiring"]
        expiring.end_by(lapsed)

    def narrow(self) -> None:
        """Hold little of what the client does not read: it stands for work that is done for nobody."""
        self._connection.narrow()

    async def taken(self) -> None:
        """Return when the system has taken all that was written, or the connection is gone."""
        await self._connection.taken()

    def ahead(self) -> int:
        """Bytes that were written and that the client has not read, as far as one can know."""
        return self._connection.ahead()

    def room(self) -> int | None:
        """Bytes that the client's system offers to take; None: it has not confirmed all that it took."""
        return self._connection.room()

    def abort(self) -> None:
        """Close the connection now; what is not written is lost."""
        self._connection.abort()

    @property
    def _connection(self) -> Carrying:
        connection: Carrying = self.scope["state"]["connection"]
        return connection
