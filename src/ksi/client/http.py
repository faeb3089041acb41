"""HTTP: each request is a POST of its own, each stream a body of lines. Only this module needs ``httpx``.

One that breaks off is asked for again alone: the others have connections of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import httpx
import msgspec

from ksi.client.link import Listener, Patience
from ksi.client.messages import Message, frame_in, message_of, problem_in
from ksi.core.errors import CancelledError, InvalidFrameError, KSIConnectionError, KSIError
from ksi.wire.answers import FRAME_OVERHEAD, Answer, WireError
from ksi.wire.frames import Request
from ksi.wire.splitter import FRAME_BYTES_MAX, Splitter

REQUESTS_MAX = 64
"""Each has a connection of its own."""
CONNECT_TIMEOUT = 10.0
SILENCE_MAX = 50.0
"""Seconds without a sign of life, after which a stream is lost: the daemon says something each 15 s."""
CLOSE_PATIENCE = 1.0
"""Seconds that a client which closes takes to tell the daemon of what it has cancelled."""
MISSES_MAX = 3
"""How often a request that is to be cancelled is looked for: it may be on its way, behind the word that cancels it."""
_GRANT = httpx.Timeout(CONNECT_TIMEOUT)
_BROKEN = (httpx.RequestError, InvalidFrameError)
_ASK = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
_READ = httpx.Timeout(None, connect=CONNECT_TIMEOUT, read=SILENCE_MAX)


class HttpEndpoint:
    """``http://HOST:PORT``, or ``https://…``."""

    def __init__(self, url: str, *, name: str | None, token: str | None, reconnect_timeout: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {"user-agent": name or "ksi", "content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._reconnect_timeout = reconnect_timeout

    def __str__(self) -> str:
        return self._url

    async def connect(self, listener: Listener) -> HttpLink:
        link = HttpLink(self._client(), listener, self._reconnect_timeout)
        try:
            await link.probe()
        except httpx.RequestError as error:
            link.close()
            await link.closed
            raise KSIConnectionError(f"no daemon answers at {self}: {error or type(error).__name__}") from None
        return link

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=REQUESTS_MAX)
        transport = httpx.AsyncHTTPTransport(limits=limits)
        return httpx.AsyncClient(base_url=self._url, headers=self._headers, transport=transport, timeout=_ASK)


class Carried:
    """A request on its way."""

    def __init__(self, frame_id: int, request: Request, reconnect_timeout: float) -> None:
        self.id = frame_id
        self.event_id = request.event_id
        self.is_resumed = request.resume is not None
        self.is_stream = request.stream or request.resume is not None
        self.patience = Patience(reconnect_timeout)
        self.is_telling = False
        self.task: asyncio.Task[None] | None = None
        self.is_stopped = False
        self.next(request)

    @property
    def cancel_path(self) -> str | None:
        """What to delete: what the daemon calls its reader, else its request; None: neither is known."""
        if self.reader is not None:
            return f"/v1/readers/{self.reader}"
        return None if self.event_id is None else f"/v1/requests/{self.event_id}"

    def next(self, request: Request) -> None:
        """Ask for this now."""
        self.granted = self.told = request.credit or 0
        self.reader: str | None = None
        """What the daemon calls it, where it takes credit."""
        self.message = message_of(request)


class HttpLink:
    """A :class:`~ksi.client.link.Link` on which each request comes and goes by itself."""

    requests_max = REQUESTS_MAX

    def __init__(self, client: httpx.AsyncClient, listener: Listener, reconnect_timeout: float) -> None:
        self._client = client
        self._listener = listener
        self._reconnect_timeout = reconnect_timeout
        self._loop = asyncio.get_running_loop()
        self._carried: dict[int, Carried] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    async def probe(self) -> None:
        """Raises httpx.RequestError where nobody answers."""
        await self._client.get("/healthz")

    def send(self, request: Request) -> None:
        assert request.id is not None
        if request.event is not None or request.resume is not None:
            carried = self._carried[request.id] = Carried(request.id, request, self._reconnect_timeout)
            carried.task = self._own(self._carry(carried))
        elif (steered := self._carried.get(request.id)) is not None:
            self._steer(steered, request)

    def _steer(self, carried: Carried, request: Request) -> None:
        if request.cancel and not carried.is_stopped:
            carried.is_stopped = True
            stopping = self._own(self._stop(carried))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
        elif request.credit:
            self._give(carried, request.credit)

    def close(self) -> None:
        self._loop.create_task(self._close()).add_done_callback(self._closed)

    def _closed(self, _: asyncio.Task[None]) -> None:
        if not self.closed.done():  # with its loop it was cancelled
            self.closed.set_result(None)

    async def _close(self) -> None:
        if self._stopping:  # to hang up does not cancel
            await asyncio.wait(self._stopping, timeout=CLOSE_PATIENCE)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _carry(self, carried: Carried) -> None:
        """Ask until nobody waits for more of it."""
        try:
            while True:
                await carried.patience.wait()
                await self._ask(carried, carried.message)
                onward = self._listener.again(carried.id)
                if onward is None:
                    return
                carried.next(onward)
        except TimeoutError:
            since = f"since {self._reconnect_timeout:g} s"
            self._listener.fail(carried.id, KSIConnectionError(f"no daemon answers at {self._client.base_url} {since}"))
        except KSIError as error:  # what came can not be read: to ask again would bring the same
            self._listener.fail(carried.id, error)
        finally:
            del self._carried[carried.id]

    async def _ask(self, carried: Carried, message: Message) -> None:
        """Ask once, and hand on what comes before it is whole or breaks off."""
        asking = self._client.stream(
            message.method,
            message.path,
            headers=message.headers,
            content=message.body,
            timeout=_READ if carried.is_stream else _ASK,
        )
        try:
            async with asking as response:
                if carried.is_stream and response.is_success:
                    await self._read_stream(carried, response)
                else:
                    await self._read_answer(carried, response)
        except _BROKEN:
            return

    async def _read_answer(self, carried: Carried, response: httpx.Response) -> None:
        body = await response.aread()
        if response.is_success:
            self._hand_on(carried, Answer(ok=True, data=msgspec.Raw(body)))
        elif (error := problem_in(response.status_code, body)) is not None:
            self._hand_on(carried, Answer(ok=False, end=carried.is_stream, error=error))

    async def _read_stream(self, carried: Carried, response: httpx.Response) -> None:
        carried.reader = response.headers.get("ksi-reader")
        try:
            self._give(carried, 0)  # what was given on the way here
            async for line in _lines(response):
                self._hand_on(carried, frame_in(line))
        finally:
            carried.reader = None

    # ── credit ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _give(self, carried: Carried, credit: int) -> None:
        carried.granted += credit
        if not carried.is_telling:
            carried.is_telling = True
            self._own(self._tell(carried))

    async def _tell(self, carried: Carried) -> None:
        """Tell the daemon what was given; what is given meanwhile goes along with the next word."""
        patience = Patience(self._reconnect_timeout)
        try:
            while (reader := carried.reader) is not None and carried.granted > carried.told:
                await patience.wait()
                granted = carried.granted
                if await self._is_told(reader, granted) and carried.reader == reader:
                    carried.told = granted
                    patience.renew()
        except TimeoutError:
            return  # the stream's own connection is no better off
        finally:
            carried.is_telling = False

    async def _is_told(self, reader: str, granted: int) -> bool:
        content = b'{"credit":%d}' % granted  # in all: said again, it is the same
        try:
            return (await self._client.put(f"/v1/readers/{reader}", content=content, timeout=_GRANT)).is_success
        except httpx.RequestError:
            return False

    def _hand_on(self, carried: Carried, answer: Answer) -> None:
        if answer.error is None:  # a daemon that stops refuses whoever goes on, again and again
            carried.patience.renew()
        answer.id = carried.id
        self._listener.received(answer)

    # ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _stop(self, carried: Carried) -> None:
        """Cancel it at the daemon, whose end still comes; what does not run there under an id ends with its connection.

        To hang up is not enough: a command goes on without its client, a stream that detaches as well, and others wait
        for somebody to come back.
        """
        if await self._is_cancelled(carried):
            return
        if carried.task is not None and carried.task.cancel():
            error = WireError(code=CancelledError.code, message="it was cancelled", details={"partial": None})
            self._hand_on(carried, Answer(ok=False, end=True, error=error))

    async def _is_cancelled(self, carried: Carried) -> bool:
        """Whether the daemon has something to cancel, and does."""
        patience, missed = Patience(self._reconnect_timeout), 0
        while missed < MISSES_MAX and carried.id in self._carried:
            try:
                await patience.wait()
                if (path := carried.cancel_path) is None:
                    if not carried.is_resumed:
                        break
                elif (await self._client.delete(path)).is_success:
                    return True
                else:
                    missed += 1
            except httpx.RequestError:
                continue
            except TimeoutError:
                break
        return False


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a body. Raises PayloadTooLargeError."""
    splitter = Splitter(FRAME_BYTES_MAX + FRAME_OVERHEAD)
    async for part in response.aiter_raw():
        for line in splitter.feed(part):
            if not isinstance(line, bytes):
                raise line
            if line:  # an empty one only says that the stream lives
                yield line
