"""Requests that a handler awaits, and streams that it opens itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope, min_deadline
from ksi.core.errors import KSIError, QueryWroteError, UnsupportedError
from ksi.kernel.declare import End, Gap
from ksi.kernel.door import Session
from ksi.kernel.joining import answer_of, settle_answer
from ksi.kernel.reads import served

if TYPE_CHECKING:
    from ksi.kernel.execution import Execution
    from ksi.kernel.router import Router
    from ksi.kernel.table import Row

Admission = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


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


class Nesting:
    """The part of the router that handlers ask."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def request(self, parent: Execution, name: str, raw: bytes, timeout: float | None, *, scope: str = "") -> Any:
        """A request that a handler awaits. Raises what its handler raised."""
        row, envelope = self._row(parent, name, raw, timeout, scope)
        return await self._await(row, envelope, parent.session, parent)

    async def _await(self, row: Row, envelope: EventEnvelope, session: Session, parent: Execution) -> Any:
        if row.is_query and parent.is_rerun and (reads := parent.read_recorder()) is not None:
            try:
                return served(reads.again("query", row.name, canonical.decode(envelope.raw)))
            except LookupError:
                pass  # it had not come so far before the crash
        future: asyncio.Future[bytes] = self._router.loop.create_future()
        call = self._router.admit(row, envelope, session, settle_answer, future, parent)
        return await answer_of(future, call)

    async def request_as(
        self, parent: Execution, session: Session, name: str, raw: bytes, admitted: Admission, *, scope: str
    ) -> Any:
        """The same in the name of ``session``'s principal; ``admitted`` is given what refuses it, and awaits that."""
        row, envelope = self._row(parent, name, raw, None, scope)
        envelope.principal = session.principal
        await admitted(partial(self._refuse_inadmissible, row, envelope, session))
        return await self._await(row, envelope, session, parent)

    async def _refuse_inadmissible(self, row: Row, envelope: EventEnvelope, session: Session) -> None:
        """Raises what stands against a request that was not made yet; a denial is on disk then."""
        try:
            self._router.admitted(row, envelope, session, is_nested=True)
        except KSIError as error:
            future: asyncio.Future[bytes] = self._router.loop.create_future()
            row.refuse(error, envelope, settle_answer, future)
            await future

    async def stream(self, parent: Execution, name: str, raw: bytes, *, scope: str = "") -> AsyncGenerator[Any, None]:
        """A stream that a handler reads: its chunks, then its End."""
        row, envelope = self._row(parent, name, raw, None, scope)
        if not row.is_stream:
            raise UnsupportedError(f"{name!r} does not stream: request it")
        inbox = Inbox()
        streaming = self._router.open_row(row, envelope, parent.session, inbox, inbox.size, parent)
        try:
            async for item in inbox.read(streaming.grant):
                yield item
        finally:
            streaming.cancel()

    def _row(
        self, parent: Execution, name: str, raw: bytes, timeout: float | None, scope: str
    ) -> tuple[Row, EventEnvelope]:
        row = self._router.table.get(name)
        if row is None:
            raise self._router.unknown(name)
        if parent.is_query and row.is_recorded:
            raise QueryWroteError(parent.envelope.name, f"request the command {name!r}")
        envelope = parent.child(name, raw, awaited=True, scope=scope)
        if timeout is not None:
            envelope.deadline_us = min_deadline(envelope.deadline_us, self._router.clock.time_us() + int(timeout * 1e6))
        return row, envelope
