"""What is asked and not yet answered: as many requests on the wire as a link bears, kept over a lost connection.

A lost connection is made again with backoff while somebody waits. Each call then says by itself how it goes on: a
request is sent again under its event id, a stream resumes after its last address.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import Protocol

from ksi.client.link import Endpoint, Link, Patience
from ksi.core.errors import KSIConnectionError, KSIError
from ksi.wire.answers import Answer
from ksi.wire.frames import Request

LOST = "the connection was lost before the answer came"


class Call(Protocol):
    """Somebody who waits for frames."""

    takes_place: bool
    """Counts among those that a link bears: a stream does not, it may be open for days."""

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
        raise AssertionError("it is never sent")

    def received(self, answer: Answer) -> bool:
        return answer.ok is not None or answer.end

    def failed(self, error: KSIError) -> None:
        """Nobody cares."""


class Exchange:
    """Gives ids to calls, and answers to the calls that they belong to."""

    def __init__(self, endpoint: Endpoint, *, reconnect_timeout: float) -> None:
        self._endpoint = endpoint
        self._reconnect_timeout = reconnect_timeout
        self._patience = Patience(reconnect_timeout)
        self._connected_at = 0.0
        self._is_heard = False
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
            self._link.send(request)

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
        while self._link is not None and self._queue and self._on_wire < self._link.requests_max:
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
        self._link.send(request)

    # ── what a link calls ────────────────────────────────────────────────────────────────────────────────────────────
    def received(self, answer: Answer) -> None:
        self._is_heard = True
        frame_id = answer.id
        if frame_id is None and answer.error is not None:
            frame_id = answer.error.details.get("id")
        call = self._calls.get(frame_id) if isinstance(frame_id, int) else None
        if call is not None and isinstance(frame_id, int) and call.received(answer):
            self._forget(frame_id)
            self._pump()

    def again(self, frame_id: int) -> Request | None:
        call = self._calls.get(frame_id)
        if call is None:
            return None
        if not call.is_repeatable:
            self.fail(frame_id, KSIConnectionError(LOST))
            return None
        request = call.opening(again=True)
        request.id = frame_id
        return request

    def fail(self, frame_id: int, error: KSIError) -> None:
        self._fail(frame_id, error)
        self._pump()

    def lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._on_wire = 0
        if self._is_heard or asyncio.get_running_loop().time() - self._connected_at > self._reconnect_timeout:
            self._patience.renew()
        for frame_id in list(self._sent):
            if not self._calls[frame_id].is_repeatable:
                self._sent.discard(frame_id)
                self._fail(frame_id, KSIConnectionError(LOST))
        if self._calls:
            self._reconnect()

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────
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
        link = await self._endpoint.connect(self)
        if link.closed.done():
            raise KSIConnectionError(f"the daemon at {self._endpoint} closed the connection at once")
        self._link = link
        self._connected_at, self._is_heard = asyncio.get_running_loop().time(), False
        for frame_id in sorted(self._sent):
            self._ask(frame_id, again=True)
        self._pump()

    def _reconnect(self) -> None:
        if self._reconnecting is None and not self._is_closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnected())

    async def _reconnected(self) -> None:
        try:
            await self._tried()
        except TimeoutError:
            since = f"since {self._reconnect_timeout:g} s"
            self._give_up(KSIConnectionError(f"no daemon answers at {self._endpoint} {since}"))
        except KSIError as refusal:  # who answers will not have us: to wait changes nothing
            self._give_up(refusal)
        finally:
            self._reconnecting = None

    async def _tried(self) -> None:
        while True:
            await self._patience.wait()
            try:
                async with asyncio.timeout(self._patience.left):
                    await self._connect()
                return
            except KSIConnectionError:
                continue

    def _give_up(self, error: KSIError) -> None:
        self._patience.renew()  # whoever asks later waits as long
        self._fail_all(error)
