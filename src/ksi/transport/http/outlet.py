"""What comes of a stream, on its way to an HTTP client.

A reader that stops reading stops the work. Who grants credit is sent no more chunks than that. For who can not, as
``curl``, no more is asked for until it has read nearly all that was written (:mod:`~ksi.transport.http.pace`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ksi.core.errors import KSIError, PayloadTooLargeError
from ksi.kernel.door import StreamCall
from ksi.transport.http.exchange import Exchange
from ksi.transport.http.formats import Format
from ksi.transport.http.pace import keep_pace
from ksi.transport.http.problems import Headers
from ksi.transport.streams import Window

CREDIT = 16
"""Chunks that may be on their way to one reader."""
UNLIMITED = 1 << 62
HEARTBEAT = 15.0
"""Seconds of silence after which something is said, so that a dead peer is found and no proxy gives up."""
END_GRACE = 10.0
"""Seconds that a reader has to take the end of its stream."""


class Outlet:
    """A :class:`~ksi.kernel.door.Sink` that writes to an HTTP client."""

    def __init__(self, exchange: Exchange, form: Format, granted: int | None, *, frame_bytes_max: int) -> None:
        """``granted``: chunks that the reader is ready for at first; None: it never says."""
        self._limit = frame_bytes_max
        self._exchange = exchange
        self._form = form
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._news = asyncio.Event()
        self._grants = granted is not None
        self._granted = UNLIMITED if granted is None else granted  #: in all
        self._window = Window(self._granted, chunks_max=CREDIT)
        self._call: StreamCall | None = None
        self._chunks = 0  #: among the parts
        self._cut: asyncio.TimerHandle | None = None
        self._is_refused = False
        self.is_ended = False
        self.refusal: KSIError | None = None
        """The error of a stream that ended with its first word."""

    # ── as the router sees it ────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, at: str) -> None:
        self._put(self._form.opening(at))

    def chunk(self, at: str | None, raw: bytes) -> None:
        if self.is_ended:
            return
        if len(raw) > self._limit:  # as at the other doors: what goes through one goes through all
            self._refuse(PayloadTooLargeError("chunk", size=len(raw), limit=self._limit))
            return
        self._window.came(len(raw))
        self._chunks += 1
        self._put(self._form.chunk(at, raw))

    def gap(self, info: Mapping[str, Any]) -> None:
        self._put(self._form.gap(info))

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        if self.is_ended:
            return
        if raw is not None and len(raw) > self._limit:
            error = PayloadTooLargeError("end value", size=len(raw), limit=self._limit)
        self.is_ended = True
        self.refusal = None if self._parts else error
        self._put(self._form.end(raw, error))
        self._cut = self._loop.call_later(END_GRACE, self._exchange.abort)

    def _refuse(self, error: KSIError) -> None:
        self.end(None, error)
        self._is_refused = True
        self.cancel()

    # ── the reader ───────────────────────────────────────────────────────────────────────────────────────────────────
    def first_credit(self) -> int:
        """What a stream that begins is asked for."""
        return self._window.next()

    def begin(self, call: StreamCall) -> None:
        """Ask ``call`` for more from now on."""
        self._call = call
        if self._is_refused:
            call.cancel()

    def grant(self, granted: int) -> None:
        """The reader is ready for so many chunks in all; said again, it is the same."""
        if granted > self._granted:
            self._window.grant(granted - self._granted)
            self._granted = granted
            self._ask()

    def cancel(self) -> None:
        """The reader wants no more; the end still comes."""
        if self._call is not None:
            self._call.cancel()

    def _ask(self) -> None:
        if self._call is not None and not self.is_ended and (portion := self._window.next()):
            self._call.grant(portion)

    def close(self) -> None:
        """All is written, or the client is gone."""
        if self._cut is not None:
            self._cut.cancel()

    def _put(self, part: bytes) -> None:
        self._parts.append(part)
        self._news.set()

    # ── to the client ────────────────────────────────────────────────────────────────────────────────────────────────
    async def pour(self, headers: Headers, at: str, patience: float | None) -> None:
        """Write all that comes, from the headers to the end.

        Args:
            headers: Beside those that every stream has.
            at: Address that the stream opens with; empty where it has none.
            patience: Seconds to wait for what may be a refusal, None for as long as it takes.

        Raises:
            KSIError: It was refused before there was anything to say.
        """
        if patience != 0.0:
            await self._first_news(patience)
        if self.refusal is not None:
            raise self.refusal
        exchange, form = self._exchange, self._form
        exchange.narrow()
        await exchange.start(200, [(b"content-type", form.media), (b"x-accel-buffering", b"no"), *headers])
        await exchange.write(form.opening(at) if at else b"")  # also where it is nothing: the head goes out with it
        while True:
            await self._news_or_heartbeat()
            is_last, body, chunks = self._take()
            await exchange.write(body, is_last=is_last)
            if is_last:
                return
            await self._read_up()
            self._window.took(chunks)
            self._ask()

    async def _read_up(self) -> None:
        """Return when more may be asked for."""
        if self._grants:
            await self._exchange.taken()
        else:
            await keep_pace(self._exchange, self._form.heartbeat, lambda: self.is_ended)

    async def _first_news(self, patience: float | None) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._news.wait()
        except TimeoutError:
            return

    async def _news_or_heartbeat(self) -> None:
        if self._news.is_set():
            return
        beat = self._loop.call_later(HEARTBEAT, self._put, self._form.heartbeat)
        try:
            await self._news.wait()
        finally:
            beat.cancel()

    def _take(self) -> tuple[bool, bytes, int]:
        """What there is to write, whether it is the end, and how many chunks it holds."""
        body, chunks = b"".join(self._parts), self._chunks
        self._parts.clear()
        self._chunks = 0
        self._news.clear()
        return self.is_ended, body, chunks
