"""The reading end of a stream that a handler opened itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ksi.core import canonical
from ksi.core.errors import KSIError
from ksi.kernel.declare import End, Gap


class Inbox:
    """A sink that is read as an async iterator. It holds at most ``size`` chunks: the credit given at first."""

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self._items: deque[Any] = deque()
        self._news = asyncio.Event()

    def opened(self, at: str) -> None:
        """A handler is not disconnected from what it opened."""

    def chunk(self, at: str | None, raw: bytes) -> None:
        self._put(canonical.decode(raw))

    def gap(self, info: Mapping[str, Any]) -> None:
        self._put(Gap(info))

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        self._put(error if error is not None else End(canonical.decode(raw or b"null")))

    async def read(self, grant: Callable[[int], None]) -> AsyncGenerator[Any, None]:
        """Chunks, then ``End(answer)``. Raises the stream's error."""
        while True:
            while not self._items:
                self._news.clear()
                await self._news.wait()
            item = self._items.popleft()
            if isinstance(item, KSIError):
                raise item
            yield item
            if isinstance(item, End):
                return
            grant(1)

    def _put(self, item: Any) -> None:
        self._items.append(item)
        self._news.set()
