"""What is asked and not yet answered: at most 1,024 requests on the wire, kept over a lost connection.

A lost connection is made again with backoff while somebody waits. Each call then says by itself how it goes on: a
request is sent again under its event id, a stream resumes after its last address.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Protocol

from ksi.client.link import Link
from ksi.core.errors import KSIConnectionError, KSIError
from ksi.wire.answers import Answer
from ksi.wire.frames import Request, encode

ON_WIRE_MAX = 1_024
BACKOFF_FIRST, BACKOFF_MAX = 0.02, 1.0


class Call(Protocol):
    """Somebody who waits for frames."""

    takes_place: bool
    """Counts among the 1,024: a stream does not, it may be open for days."""

    @property
    def is_repeatable(self) -> bool:
        """Whether it can go on over a new connection."""

    def opening(self, *, again: bool) -> Request:
        """The frame that asks, or asks again; its id is filled in."""

    def received(self, answer: Answer) -> bool:
        """Takes a frame; True: it was the last."""

    def failed(self, error: KSIError) -> None:
        """There will be no more frames."""


class Abandoned:
    """Stands in for a call whose caller went away, until its last frame has come."""

    is_repeatable = False

    def __init__(self, *, takes_place: bool) -> None:
        self.takes_place = takes_place

    def opening(self, *, again: bool) -> Request:
        raise NotImplementedError("it is never sent")

    def received(self, answer: Answer) -> bool:
        return answer.ok is not None or answer.end

    def failed(self, error: KSIError) -> None:
        """Nobody cares."""


class Exchange:
    """Gives ids to calls, and answers to the calls that they belong to."""

    def __init__(self, path: Path, *, name: str | None, token: str | None, reconnect_timeout: float) -> None:
        self._path = path
        self._name = name
        self._token = token
        self._reconnect_timeout = reconnect_timeout
        self._ids = count(1)
        self._calls: dict[int, Call] = {}
        self._sent: set[int] = set()
        self._queue: deque[int] = deque()
        self._on_wire = 0
        self._link: Link | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Connect, if it is not.

        Raises:
            KSIConnectionError: Nobody answers.
        """
        if self._link is None and self._reconnecting is None:
            await self._connect()

    async def close(self) -> None:
        """Every call that waits fails."""
        self._is_closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        link, self._link = self._link, None
        self._fail_all(KSIConnectionError("the client was closed"))
        if link is not None:
            link.close()
            await link.closed

    def start(self, call: Call) -> int:
        """Ask, as soon as there is room; the id by which to steer.

        Raises:
            KSIConnectionError: The client was closed.
        """
        if self._is_closed:
            raise KSIConnectionError("the client was closed")
        frame_id = next(self._ids)
        self._calls[frame_id] = call
        self._queue.append(frame_id)
        if self._link is None:
            self._reconnect()
        else:
            self._pump()
        return frame_id

    def steer(self, request: Request) -> None:
        """Send credit or a cancel; void where the call has ended or is not on the wire: it will ask again."""
        if self._link is not None and request.id in self._sent:
            self._link.send(encode(request))

    def abandon(self, frame_id: int) -> None:
        """The caller went away: cancel at the daemon, or never ask."""
        call = self._calls.get(frame_id)
        if call is None:
            return
        if frame_id in self._sent and self._link is not None:
            self._calls[frame_id] = Abandoned(takes_place=call.takes_place)
            self.steer(Request(id=frame_id, cancel=True))
        else:  # it was never asked, or there is nobody whom it could be asked of again
            self._sent.discard(frame_id)
            del self._calls[frame_id]

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _pump(self) -> None:
        while self._link is not None and self._queue and self._on_wire < ON_WIRE_MAX:
            frame_id = self._queue.popleft()
            if frame_id in self._calls:
                self._ask(frame_id, again=False)

    def _ask(self, frame_id: int, *, again: bool) -> None:
        assert self._link is not None
        call = self._calls[frame_id]
        request = call.opening(again=again)
        request.id = frame_id
        self._sent.add(frame_id)
        self._on_wire += call.takes_place
        self._link.send(encode(request))

    def _received(self, answer: Answer) -> None:
        frame_id = answer.id
        if frame_id is None and answer.error is not None:
            frame_id = answer.error.details.get("id")
        call = self._calls.get(frame_id) if isinstance(frame_id, int) else None
        if call is not None and isinstance(frame_id, int) and call.received(answer):
            self._forget(frame_id)
            self._pump()

    def _forget(self, frame_id: int) -> None:
        call = self._calls.pop(frame_id)
        if frame_id in self._sent:
            self._sent.discard(frame_id)
            self._on_wire -= call.takes_place

    def _fail(self, frame_id: int, error: KSIError) -> None:
        call = self._calls[frame_id]
        self._forget(frame_id)
        call.failed(error)

    def _fail_all(self, error: KSIError) -> None:
        for frame_id in list(self._calls):
            self._fail(frame_id, error)
        self._queue.clear()

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────
    async def _connect(self) -> None:
        link = await Link.open(self._path, self._received, self._lost)
        if link.closed.done():
            raise KSIConnectionError(f"the daemon at {self._path} closed the connection at once")
        self._link = link
        if self._name is not None or self._token is not None:
            link.send(encode(Request(hello=1, client=self._name, token=self._token)))
        for frame_id in sorted(self._sent):
            self._ask(frame_id, again=True)
        self._pump()

    def _lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._on_wire = 0
        for frame_id in list(self._sent):
            if not self._calls[frame_id].is_repeatable:
                self._sent.discard(frame_id)
                self._fail(frame_id, KSIConnectionError("the connection was lost before the answer came"))
        if self._calls:
            self._reconnect()

    def _reconnect(self) -> None:
        if self._reconnecting is None and not self._is_closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnected())

    async def _reconnected(self) -> None:
        try:
            async with asyncio.timeout(self._reconnect_timeout):
                await self._tried()
        except TimeoutError:
            self._fail_all(KSIConnectionError(f"no daemon answers at {self._path} since {self._reconnect_timeout:g} s"))
        finally:
            self._reconnecting = None

    async def _tried(self) -> None:
        for delay in _backoff():
            try:
                await self._connect()
                break
            except KSIConnectionError:
                await asyncio.sleep(delay)


def _backoff() -> Iterator[float]:
    """Seconds between attempts: doubled each time, and jittered, so that clients do not come back all at once."""
    delay = BACKOFF_FIRST
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, BACKOFF_MAX)
