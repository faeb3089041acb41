"""What has begun and not ended yet, whoever asked for it; and how all of it comes to its end when the daemon stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ksi.core.tracing import Tracer
from ksi.kernel.execution import Execution
from ksi.kernel.querying import AsyncQuery
from ksi.kernel.streaming import Streaming
from ksi.kernel.table import Row
from ksi.kernel.wheel import Wheel

if TYPE_CHECKING:
    from ksi.kernel.parking import Parking

_log = logging.getLogger("ksi.kernel")

CANCEL_PATIENCE = 5.0
"""Seconds that cancelled handlers have to end when the daemon stops."""
ANSWER_PATIENCE = 1.0
"""Seconds that the log has to take the outcomes of those that did not."""


class UnderWay:
    """The part of the router that knows what runs."""

    parking: Parking

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wheel = Wheel(loop)
        self.running: dict[bytes, Execution] = {}
        self.queries: set[AsyncQuery] = set()
        self.readers: set[asyncio.Task[None]] = set()
        self.under_way: set[Execution] = set()
        self.is_draining = False
        self.tracer: Tracer | None = None
        """Who wants to know of spans. Rows are compiled for it, so it is set before there are any."""
        self._idle: asyncio.Event | None = None

    def enter(self, execution: Execution) -> None:
        self.running[execution.envelope.event_id] = execution
        self.under_way.add(execution)
        execution.entered_at = perf_counter()
        if self.tracer is not None and (execution.is_recorded or execution.parent is not None):
            execution.measured = self.tracer.begin(execution.envelope)

    def leave(self, execution: Execution) -> None:
        event_id = execution.envelope.event_id
        if self.running.get(event_id) is execution:
            del self.running[event_id]
        self.under_way.discard(execution)
        if execution.is_parked:
            self.parking.left(execution)
        if self._idle is not None or execution.row.on_end is not None:
            self._ended(execution.row)

    def family(self, execution: Execution) -> list[Execution]:
        """``execution`` and all that is under way below it."""
        return [each for each in self.under_way if each.is_below(execution)]

    def query_ended(self, query: AsyncQuery) -> None:
        self.queries.discard(query)
        if self._idle is not None or query.row.on_end is not None:
            self._ended(query.row)

    def is_busy(self, rows: Collection[Row]) -> bool:
        """Whether a request of one of ``rows`` is under way."""
        return any(call.row in rows for call in self._calls())

    def cancel_all(self, rows: Collection[Row]) -> None:
        """Cancel what is under way of ``rows``."""
        for call in self._calls():
            if call.row in rows:
                call.abort()

    async def cancel_on(self, branch: str) -> None:
        """Cancel what runs on ``branch``, or is parked there, and wait for its end."""
        theirs = [each for each in self.running.values() if each.envelope.branch == branch and not each.answered]
        await asyncio.gather(*[_ended(each) for each in [*theirs, *self.parking.on(branch)]])

    def _calls(self) -> list[Execution | AsyncQuery]:
        return [*self.under_way, *self.queries]

    def _ended(self, row: Row) -> None:
        if row.on_end is not None:
            row.on_end()
        self._look_idle()

    def _look_idle(self) -> None:
        if self._idle is not None and not self.under_way and not self.queries:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, let what runs end for ``seconds``, then cancel it and wait for its outcomes.

        Once is enough: what is left then swallows its cancel, and is not waited for again.
        """
        if self.is_draining:
            return
        self.is_draining = True
        self.parking.let_go()
        for execution in list(self.under_way):
            if isinstance(execution, Streaming):
                execution.shut_down()
        if await self._wait_idle(seconds):
            return
        for call in self._calls():
            call.abort()
        if not await self._wait_idle(CANCEL_PATIENCE):
            _log.warning("left running: %s", sorted({execution.row.name for execution in self.under_way}))
            await self._answer_for(list(self.under_way))

    async def _answer_for(self, stubborn: Sequence[Execution]) -> None:
        """Tell the callers of those that do not end, with an outcome in the log."""
        told = asyncio.Event()

        def look(*_: Any) -> None:
            if all(execution.answered for execution in stubborn):
                told.set()

        for execution in stubborn:
            execution.watch(look, None)
            execution.expire()
        look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_PATIENCE):
                await told.wait()

    async def _wait_idle(self, seconds: float) -> bool:
        self._idle = asyncio.Event()
        self._look_idle()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop readers and timers; call after :meth:`drain`."""
        for reader in list(self.readers):
            reader.cancel()
        if self.readers:
            await asyncio.gather(*self.readers, return_exceptions=True)
        self.wheel.close()


async def _ended(execution: Execution) -> None:
    """Cancel ``execution`` and return when its outcome is known."""
    over = asyncio.Event()
    execution.watch(lambda *_: over.set(), None)
    execution.abort()
    await over.wait()
