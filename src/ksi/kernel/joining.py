"""Those who wait for one request together: each with a deadline of its own, each free to leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ksi.core import canonical
from ksi.core.errors import CancelledError, DeadlineExceededError, KSIError
from ksi.core.threads import settle
from ksi.kernel.door import Call, Done, Session, Sink

if TYPE_CHECKING:
    from ksi.kernel.execution import Execution
    from ksi.kernel.resume import Resumed
    from ksi.kernel.router import Router
    from ksi.kernel.streaming import Streaming

UNLIMITED = 1 << 62
_log = logging.getLogger("ksi.kernel")


class Deadline:
    """Until when one of them waits. It stands still while the request is parked."""

    __slots__ = ("_late", "_router", "_tick", "_us")

    def __init__(self, router: Router, us: int, late: Callable[[], None]) -> None:
        self._router = router
        self._us = us
        self._late = late
        self._tick: int | None = None

    def put_off(self, more_us: int) -> None:
        self._us += more_us

    def start(self) -> None:
        self._tick = self._router.wheel.add(self, (self._us - self._router.clock.time_us()) / 1e6)

    def stop(self) -> None:
        if self._tick is not None:
            self._router.wheel.remove(self, self._tick)
            self._tick = None

    def expire(self) -> None:
        self._tick = None
        self._late()


class Joined:
    """One more who waits for the answer of a request under way."""

    asked = UNLIMITED
    """Of a stream: how many chunks it has asked for in all. Who waits for the end wants them all."""

    def __init__(self, execution: Execution, done: Done, token: Any) -> None:
        self._execution = execution
        self.done = done
        self.token = token

    def begin(self) -> None:
        """The stream can be read from now on."""

    def cancel(self) -> None:
        """Wait no more; the request goes on for the others, and ends where there are none."""
        self._execution.part(self, CancelledError(self._execution.envelope.name))

    def late(self) -> None:
        """Its deadline, which need not be that of the others."""
        self._execution.part(self, DeadlineExceededError(self._execution.envelope.name))

    def leave(self, error: KSIError) -> None:
        deliver(self.done, self.token, None, error)

    def as_sink(self) -> Sink:
        """It is the last one: what it is told is the end of the stream itself."""
        return EndOnly(self.done, self.token)


class JoinedReader(Joined):
    """One more reader of a stream under way: out of the log, at a pace of its own."""

    def __init__(
        self, streaming: Streaming, session: Session, sink: Sink, credit: int, *, version: int = 0, before: int = 0
    ) -> None:
        """A reader of the chunks after ``version``; ``before`` is how many were said up to there."""
        super().__init__(streaming, self._told, None)
        self._streaming = streaming
        self._session = session
        self._sink = sink
        self._reader: Resumed | None = None
        self._version = version
        self._before = before
        self.asked = before + credit

    @property
    def stream(self) -> str:
        return self._streaming.stream

    def begin(self) -> None:
        address, credit = f"{self._streaming.stream}@{self._version}", self.asked - self._before
        self._reader = self._streaming.router.read(address, self._session, self._sink, credit)

    def grant(self, credit: int) -> None:
        self.asked += credit
        if self._reader is not None:
            self._reader.grant(credit)
        self._streaming.keep_pace()

    def cancel(self) -> None:
        if not self._streaming.is_ending:
            super().cancel()
        elif self._reader is not None:
            self._reader.leave(CancelledError(self._streaming.envelope.name))

    def disconnected(self) -> None:
        self._stop()
        self._streaming.lost(self)

    def leave(self, error: KSIError) -> None:
        if self._reader is None:
            self._sink.end(None, error)
        else:
            self._reader.leave(error)

    def as_sink(self) -> Sink:
        self._stop()
        return EndOnly(lambda token, raw, error: self._sink.end(raw, error), None)

    def _stop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.disconnected()

    def _told(self, token: Any, raw: bytes | None, error: KSIError | None) -> None:
        """The stream has ended. One that reads finds that in the log, behind the chunks."""
        if self._reader is None:
            self._sink.end(raw, error)


class EndOnly:
    """The sink of a stream that was requested, not streamed: the answer is its end value."""

    def __init__(self, done: Done, token: Any) -> None:
        self._done = done
        self._token = token

    def opened(self, at: str) -> None: ...
    def chunk(self, at: str | None, raw: bytes) -> None: ...
    def gap(self, info: Any) -> None: ...

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        self._done(self._token, raw, error)


def deliver(done: Done, token: Any, raw: bytes | None, error: KSIError | None) -> None:
    """Call back. A transport that fails must not keep a key from those who wait for it."""
    try:
        done(token, raw, error)
    except Exception:  # noqa: BLE001  # the caller's code, at the router's door
        _log.exception("an answer could not be delivered")


def ignore(token: Any, raw: bytes | None, error: KSIError | None) -> None:
    """The answer of a request that nobody waits for is in the log."""


def settle_answer(future: asyncio.Future[bytes], raw: bytes | None, error: KSIError | None) -> None:
    """Give the answer to who awaits ``future``, unless it was cancelled."""
    settle(future, raw or b"null", error)


async def answer_of(future: asyncio.Future[bytes], call: Call | None) -> Any:
    """What :func:`settle_answer` gives to ``future``; whoever is cancelled while it waits cancels ``call``."""
    try:
        return canonical.decode(await future)
    except asyncio.CancelledError:
        if call is not None:
            call.cancel()
        raise
