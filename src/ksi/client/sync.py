"""The same client for code without a loop: its own loop runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ksi.client.client import After, EventClient, Options, Receipt
from ksi.client.requests import Payload
from ksi.client.streams import Chunk, EventStream
from ksi.core.errors import KSIError
from ksi.core.result import Result

T = TypeVar("T")


class SyncStream:
    """``for chunk in stream``; afterwards ``end`` is the end value."""

    def __init__(self, client: SyncEventClient, stream: EventStream) -> None:
        self._client = client
        self._stream = stream

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = self._client.run(self._step())
        if chunk is None:
            raise StopIteration
        return chunk

    @property
    def at(self) -> str | None:
        """Address of the last chunk that has arrived."""
        return self._stream.at

    @property
    def end(self) -> Any:
        """The end value, once the stream is at its end."""
        return self._stream.end

    def cancel(self) -> None:
        """Stop it at the daemon; the loop ends when the end frame has come."""
        self._client.run(_called(self._stream.cancel))

    def close(self) -> None:
        """Stop it at the daemon and wait for nothing."""
        self._client.run(_called(self._stream.close))

    def __enter__(self) -> Self:
        self._client.run(_called(self._stream.open))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _step(self) -> Chunk | None:
        return await anext(self._stream, None)


class SyncEventClient:
    """:class:`~ksi.client.client.EventClient` for scripts and threads; takes the same arguments.

    ::

        with SyncEventClient() as client:
            client.request("state:get", key="a")
    """

    def __init__(
        self,
        where: str | Path | None = None,
        *,
        home: str | Path | None = None,
        start: bool = False,
        name: str | None = None,
        token: str | None = None,
        reconnect_timeout: float = 10.0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ksi-client", daemon=True)
        self._thread.start()
        self._client = self.run(
            _made(where, home=home, start=start, name=name, token=token, reconnect_timeout=reconnect_timeout),
        )

    def connect(self) -> Self:
        """Connect now.

        Raises:
            KSIConnectionError: Nobody answers, or the daemon could not be started.
        """
        try:
            self.run(self._client.connect())
        except KSIError:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Whatever still waits fails."""
        if self._loop.is_closed():
            return
        self.run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def request(self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any) -> Any:
        """Ask and wait for the answer. An interrupt (Ctrl-C) cancels it at the daemon."""
        return self.run(self._client.request(event, data, options=options, **fields))

    def try_request(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> Result[Any, KSIError]:
        """The same, with the error as a value."""
        return self.run(self._client.try_request(event, data, options=options, **fields))

    def send(self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any) -> Receipt:
        """Have it done, whatever becomes of this client."""
        return self.run(self._client.send(event, data, options=options, **fields))

    def stream(
        self, event: str, data: Payload = None, /, *, options: Options | None = None, **fields: Any
    ) -> SyncStream:
        """The answer in chunks."""
        return self._streaming(lambda: self._client.stream(event, data, options=options, **fields))

    def resume(self, address: str, *, options: Options | None = None) -> SyncStream:
        """The chunks after ``address``, then what comes, then the end."""
        return self._streaming(lambda: self._client.resume(address, options=options))

    def subscribe(
        self, pattern: str, *, after: After = "end", options: Options | None = None, **fields: Any
    ) -> SyncStream:
        """Recorded events that match, from ``after`` on, then live."""
        return self._streaming(lambda: self._client.subscribe(pattern, after=after, options=options, **fields))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the client's loop; an interrupt of this thread cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _streaming(self, make: Callable[[], EventStream]) -> SyncStream:
        return SyncStream(self, self.run(_called(make)))


async def _made(where: str | Path | None, **arguments: Any) -> EventClient:
    return EventClient(where, **arguments)


async def _called(function: Callable[[], T]) -> T:
    return function()
