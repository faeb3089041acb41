"""A doorbell: those who wait for news of the log."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes all who wait for it, once each."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future.cancelled():
                self._waiting = [other for other in self._waiting if other is not future]
