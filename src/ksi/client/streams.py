"""Answers in chunks, taken at the reader's own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from ksi.client.exchange import Exchange
from ksi.core import canonical
from ksi.core.errors import CancelledError, KSIError, ShuttingDownError
from ksi.wire.answers import Answer
from ksi.wire.frames import Request

GAPS_MAX = 100


class Chunk(msgspec.Struct, frozen=True):
    """One part of a streamed answer; ``at`` is its address in the log, after which anybody can resume."""

    data: Any
    at: str | None
    seq: int


class EventStream:
    """``async for chunk in stream``; afterwards ``end`` is the end value. Inside ``async with`` a ``break`` cancels it.

    A slow loop makes a slow producer: no more than ``buffer_size`` chunks are ever under way.
    """

    takes_place = False

    def __init__(self, exchange: Exchange, request: Request, *, buffer_size: int) -> None:
        self._exchange = exchange
        self._request = request
        self._buffer_size = max(1, buffer_size)
        self._chunks: deque[Chunk] = deque()
        self._news = asyncio.Event()
        self._frame_id: int | None = None
        self._taken = 0  #: chunks for which no credit was given back
        self._seq = 0
        self._is_cancelled = False
        self._is_ended = False
        self._error: KSIError | None = None
        self.at: str | None = None
        """Address of the last chunk that has arrived, or the one behind which a subscription began."""
        self.end: Any = None
        """The end value, once the stream is at its end."""
        self.gaps: deque[Mapping[str, Any]] = deque(maxlen=GAPS_MAX)
        """What the daemon said of chunks that it dropped, because the subscriber chose that."""

    def open(self) -> Self:
        """Ask now, not only when the first chunk is wanted."""
        if self._frame_id is None and not self._is_ended:
            self._frame_id = self._exchange.start(self)
        return self

    def cancel(self) -> None:
        """Stop it at the daemon. The loop ends when the end frame has come; ``end`` is then what there was.

        One that was not asked for yet never is.
        """
        self._is_cancelled = True
        if self._frame_id is None:
            self._is_ended = True
        elif not self._is_ended:
            self._exchange.steer(Request(id=self._frame_id, cancel=True))

    def close(self) -> None:
        """Stop it at the daemon and wait for nothing."""
        if self._frame_id is not None and not self._is_ended:
            self._is_ended = True
            self._exchange.abandon(self._frame_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        self.open()
        self._give_credit()
        while not self._chunks:
            if self._is_ended:
                self._stop()
            self._news.clear()
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                self.close()
                raise
        self._taken += 1
        return self._chunks.popleft()

    async def __aenter__(self) -> Self:
        return self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _stop(self) -> None:
        if self._error is not None and not (self._is_cancelled and isinstance(self._error, CancelledError)):
            raise self._error
        raise StopAsyncIteration

    def _give_credit(self) -> None:
        """For what was taken before: the reader is done with it when it comes for the next."""
        if self._taken * 2 >= self._buffer_size and not self._is_ended and self._frame_id is not None:
            self._exchange.steer(Request(id=self._frame_id, credit=self._taken))
            self._taken = 0

    # ── what the exchange calls ──────────────────────────────────────────────────────────────────────────────────────
    @property
    def is_repeatable(self) -> bool:
        """After a chunk without an address nobody knows where to go on."""
        return self.at is not None or (self._seq == 0 and self._request.event_id is not None)

    def opening(self, *, again: bool) -> Request:
        credit = self._buffer_size - len(self._chunks)
        self._taken = 0
        if again and self.at is not None:
            return self._onward(self.at, credit)
        self._request.credit = credit
        return self._request

    def _onward(self, at: str, credit: int) -> Request:
        return Request(resume=at, credit=credit)

    def received(self, answer: Answer) -> bool:
        if answer.error is not None:
            self._finish(answer.error.raised())
            return True
        if answer.end:
            self.end = canonical.decode(answer.data)
            self._finish(None)
            return True
        self._go_on(answer)
        return False

    def _go_on(self, answer: Answer) -> None:
        if answer.gap is not None:
            self.gaps.append(answer.gap)
            return
        self.at = answer.at
        if answer.seq is None:  # it says only where the stream begins
            return
        self._seq += 1
        self._chunks.append(Chunk(canonical.decode(answer.data), answer.at, self._seq))
        self._news.set()

    def failed(self, error: KSIError) -> None:
        self._finish(error)

    def _finish(self, error: KSIError | None) -> None:
        self._is_ended = True
        self._error = error
        if isinstance(error, CancelledError) and error.partial is not None:
            self.end = error.partial
        self._news.set()


class SubscriptionStream(EventStream):
    """Recorded events; over a new connection it goes on after the last one that came.

    So the end of the daemon is not its end: the next one, on the same home, goes on with it.
    """

    @property
    def is_repeatable(self) -> bool:
        return True

    def received(self, answer: Answer) -> bool:
        if answer.error is not None and answer.error.code == ShuttingDownError.code:
            return False
        return super().received(answer)

    def _onward(self, at: str, credit: int) -> Request:
        payload = canonical.decode(self._request.data or b"{}")
        data = msgspec.Raw(canonical.encode({**payload, "after": at}))
        return Request(event=self._request.event, data=data, stream=True, credit=credit)
