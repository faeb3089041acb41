"""Reading a stream that somebody else started: the chunks after an address, then live, then the end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ksi.core import canonical, ids
from ksi.core.errors import InternalError, InvalidFrameError, KSIError, NotFoundError, from_wire
from ksi.core.events import RecordedEvent
from ksi.core.ports import Known, Outcome
from ksi.kernel.door import Session, Sink

if TYPE_CHECKING:
    from ksi.kernel.router import Router

PAGE = 64
_log = logging.getLogger("ksi.kernel")


class LiveStreams:
    """Who waits for news of which stream."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def watch(self, stream: str) -> asyncio.Event:
        """An event that is set whenever the stream grew or ended."""
        news = asyncio.Event()
        self._waiting.setdefault(stream, set()).add(news)
        return news

    def unwatch(self, stream: str, news: asyncio.Event) -> None:
        watchers = self._waiting.get(stream, set())
        watchers.discard(news)
        if not watchers:
            self._waiting.pop(stream, None)

    def progressed(self, stream: str) -> None:
        for news in self._waiting.get(stream, ()):
            news.set()

    ended = progressed


class Resumed:
    """One reader of a recorded stream. It follows the log at its own pace; the work does not wait for it."""

    def __init__(self, router: Router, address: str, session: Session, sink: Sink, credit: int) -> None:
        self._router = router
        self._address = address
        self._session = session
        self._sink = sink
        self._credit = credit
        self._news = asyncio.Event()
        self._task = router.loop.create_task(self._run(), context=router.fresh_context())
        router.readers.add(self._task)
        self._task.add_done_callback(router.readers.discard)

    @property
    def stream(self) -> str:
        return self._address.rpartition("@")[0]

    def grant(self, credit: int) -> None:
        self._credit += credit
        self._news.set()

    def cancel(self) -> None:
        """Stop reading; the stream itself goes on."""
        if not self._task.done():
            self._task.cancel()
            self._sink.end(b"null", None)

    def leave(self, error: KSIError) -> None:
        """The same, for a reason."""
        if not self._task.done():
            self._task.cancel()
            self._sink.end(None, error)

    def disconnected(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        try:
            stream, version = parse_address(self._address)
            known = await self._router.known_stream(stream, self._session)
            raw, error = ended(await self._follow(stream, version, known))
        except KSIError as refused:
            raw, error = None, refused
        except Exception as raised:  # noqa: BLE001  # the door of a task that nobody awaits
            _log.exception("reading %s failed", self._address)
            raw, error = None, InternalError(f"reading {self._address!r}", str(raised))
        self._sink.end(raw, error)

    async def _follow(self, stream: str, version: int, known: Known) -> Outcome:
        """Deliver what is there and what comes; the answer is how the stream ended."""
        news = self._news = self._router.streams.watch(stream)
        try:
            while True:
                news.clear()
                outcome = self._recorded_outcome(known)
                version, is_caught_up = await self._deliver(stream, version, known.request.branch)
                if outcome is not None and is_caught_up:
                    return outcome
                if is_caught_up or self._credit <= 0:
                    await news.wait()
                known = await self._router.known_request(known.request.event_id)
        finally:
            self._router.streams.unwatch(stream, news)

    def _recorded_outcome(self, known: Known) -> Outcome | None:
        """How it ended; the log knows of an outcome before it, and the last chunks with it, can be read."""
        execution = self._router.running.get(known.request.event_id)
        return None if execution is not None and execution.committing else known.outcome

    async def _deliver(self, stream: str, version: int, branch: str) -> tuple[int, bool]:
        """Deliver as many chunks as there is credit for; the last version looked at, and whether that was all."""
        seen = 0
        chunks = self._router.journal.read_stream(stream, from_version=version + 1, limit=PAGE, branch=branch)
        async for event in chunks:
            if event.kind == "chunk" and self._credit <= 0:
                return version, False
            seen += 1
            version = event.version
            self._pass_on(event)
        return version, seen < PAGE

    def _pass_on(self, event: RecordedEvent) -> None:
        if event.kind == "chunk":
            self._credit -= 1
            self._sink.chunk(event.address, event.raw)


def parse_address(address: str) -> tuple[str, int]:
    """``stream@version``. Raises InvalidFrameError."""
    stream, at, version = address.rpartition("@")
    if not at or not stream or not version.isdecimal():
        raise InvalidFrameError(f"{address!r} is no address: write stream@version", address=address)
    return stream, int(version)


def request_of(stream: str) -> bytes:
    """The request whose chunks a stream holds: its id is the last part of the name. Raises NotFoundError."""
    try:
        return ids.parse(stream.rpartition("/")[2])
    except KSIError:
        raise NotFoundError("stream", stream) from None


def ended(outcome: Outcome) -> tuple[bytes | None, KSIError | None]:
    """The answer, or the error, that an outcome stands for."""
    if outcome.ok:
        return outcome.data, None
    error = canonical.decode(outcome.data)
    return None, from_wire(error["code"], error["message"], error["details"])
