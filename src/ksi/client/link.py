"""The seam between what is asked and how it travels: a link takes requests and gives frames."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from typing import Protocol, cast

from ksi.core.errors import InvalidFrameError, KSIError, PayloadTooLargeError
from ksi.wire.answers import Answer, decode
from ksi.wire.frames import Request, encode

ON_WIRE_MAX = 1_024
BACKOFF_FIRST, BACKOFF_MAX = 0.02, 1.0


class Link(Protocol):
    """A way to the daemon that stands."""

    requests_max: int
    """Requests that may wait for their answers on it at once."""
    closed: asyncio.Future[None]
    """Done when nothing of it is left."""

    def send(self, request: Request) -> None:
        """Ask, or steer what was asked. Frames of it come until its last one, or until the link is lost."""

    def close(self) -> None:
        """Send what waits, then close."""


class Listener(Protocol):
    """Where a link's frames go."""

    def received(self, answer: Answer) -> None:
        """A frame came."""

    def lost(self, link: Link) -> None:
        """Nothing comes over ``link`` any more."""

    def again(self, frame_id: int) -> Request | None:
        """One answer broke off, and the link still stands: how to ask for the rest; None: nobody waits for it."""

    def fail(self, frame_id: int, error: KSIError) -> None:
        """No more frames of it come."""


class Endpoint(Protocol):
    """Where the daemon is; as text what a person calls it."""

    async def connect(self, listener: Listener) -> Link:
        """A link.

        Raises:
            KSIConnectionError: Nobody answers.
            KSIError: Who answers refuses us.
        """


class FrameLink(asyncio.Protocol, ABC):
    """A :class:`Link` that is one connection with frames in both directions; what one turn sends leaves at once."""

    requests_max = ON_WIRE_MAX

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._listener.lost(self)

    def send(self, request: Request) -> None:
        self._parts.append(encode(request))
        if len(self._parts) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now; what was sent may be lost."""
        if self._transport is not None:
            self._transport.abort()

    def _frame(self, line: bytes | PayloadTooLargeError) -> bool:
        """Hand on the frame that a line holds; False: it is none, and the link is given up."""
        try:
            if not isinstance(line, bytes):
                raise line
            answer = decode(line)
        except (InvalidFrameError, PayloadTooLargeError):
            self.abort()  # whose answer it was can not be known: all are asked for again on a new connection
            return False
        self._listener.received(answer)
        return True

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if self._transport is not None and parts:
            self._write(parts)

    @abstractmethod
    def _write(self, frames: list[bytes]) -> None:
        """Write frames, each a line with its newline."""


class Patience:
    """When to try again, and until when: ``timeout`` seconds after it was renewed nothing is tried any more.

    To be connected is no success: something in front of a daemon that is down takes connections, and cuts them.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.renew()

    def renew(self) -> None:
        """Something came: begin anew, should it be lost."""
        self._until: float | None = None
        self._delay = 0.0

    async def wait(self) -> None:
        """Sleep until the next attempt: none at first, then twice as long each time, jittered.

        Raises:
            TimeoutError: There is no next one.
        """
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._timeout
        if now >= self._until:
            raise TimeoutError
        # Jittered, so that clients do not come back all at once.
        await asyncio.sleep(min(self._delay * random.uniform(0.5, 1.0), self._until - now))
        self._delay = min(max(self._delay * 2, BACKOFF_FIRST), BACKOFF_MAX)

    @property
    def left(self) -> float:
        """Seconds until nothing is tried any more."""
        return self._timeout if self._until is None else self._until - asyncio.get_running_loop().time()
