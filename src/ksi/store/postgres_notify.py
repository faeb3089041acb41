"""The doorbell of the PostgreSQL log: rings when another writer has committed, and every now and then anyway.

A NOTIFY says nothing but that there is something: who hears it reads the log. So one that is lost costs a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import psycopg

from ksi.store.postgres_schema import CHANNEL, conninfo_of

POLL = 0.5
"""Seconds after which it rings without a NOTIFY."""


class Doorbell:
    """Rings from :meth:`start` to :meth:`stop`."""

    def __init__(self, url: str, ring: Callable[[int | None], None]) -> None:
        """``ring`` gets the number of the server's process that notified; None: nobody did."""
        self._conninfo = conninfo_of(url)
        self._ring = ring
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ksi-doorbell")

    async def _run(self) -> None:
        while True:
            with suppress(psycopg.Error):  # without a server the poll goes on
                async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._ring(None)  # for what came before there was somebody to hear it
                    await self._listen(connection)
            self._ring(None)
            await asyncio.sleep(POLL)

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            notifier = None
            async for notify in connection.notifies(timeout=POLL, stop_after=1):
                notifier = notify.pid
            self._ring(notifier)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
