"""A stream as its reader pulls it: the other end of a :class:`~ksi.kernel.door.Sink`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ksi.core import canonical
from ksi.core.errors import KSIError
from ksi.kernel.door import Sink, StreamCall

CREDIT = 16
"""Chunks that may be on their way to a reader who does not take them."""


class Pulled:
    """Implements :class:`~ksi.kernel.door.Sink`.

    ::

        stream = Pulled()
        async with aclosing(stream.chunks(partial(router.open_stream, envelope, session))) as chunks:
            …
        stream.answer
    """

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._answer: bytes | None = None
        self._error: KSIError | None = None
        self._is_ended = False
        self._call: StreamCall | None = None

    @property
    def answer(self) -> Any:
        """The end value, behind the last chunk."""
        return canonical.decode(self._answer or b"null")

    @property
    def is_ended(self) -> bool:
        """Whether no more will come, though there may be chunks to be pulled."""
        return self._is_ended

    # ── as the router sees it ────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, at: str) -> None:
        """Nobody resumes it here."""

    def chunk(self, at: str | None, raw: bytes) -> None:
        self._chunks.append(raw)
        self._news.set()

    def gap(self, info: Mapping[str, Any]) -> None:
        """Who pulls waits, and loses nothing."""

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        if self._is_ended:
            return
        self._answer, self._error, self._is_ended = raw, error, True
        self._news.set()

    def break_off(self, error: KSIError) -> None:
        """End it with ``error``, behind the chunks that came."""
        if self._call is not None and not self._is_ended:
            self.end(None, error)
            self._call.cancel()

    # ── as its reader sees it ────────────────────────────────────────────────────────────────────────────────────────
    async def chunks(self, open_stream: Callable[[Sink, int], StreamCall]) -> AsyncGenerator[Any, None]:
        """The chunks, decoded; closing it before the end means that the reader has left.

        Raises:
            KSIError: What the stream ended with.
        """
        call = self._call = open_stream(self, CREDIT)
        try:
            while self._chunks or not self._is_ended:
                if not self._chunks:
                    self._news.clear()
                    await self._news.wait()
                    continue
                yield canonical.decode(self._chunks.popleft())
                call.grant(1)
        finally:
            if not self._is_ended:
                call.cancel()  # and not only gone: it is nobody who could come back to it
        if self._error is not None:
            raise self._error
