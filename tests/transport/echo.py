"""A small real door: it answers from functions, at once or when it is told to."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import CancelledError, KSIError, UnknownEventError
from ksi.kernel.door import Done, Session, Sink
from ksi.wire.typed import TypedFrames

Handler = Callable[[Any, EventEnvelope], Any]


class HeldCall:
    """A request that waits for :meth:`EchoDoor.answer`."""

    def __init__(self, envelope: EventEnvelope, done: Done, token: Any) -> None:
        self.envelope = envelope
        self._done = done
        self._token = token
        self.is_cancelled = False
        self.is_done = False

    def answer(self, value: Any) -> None:
        if not self.is_done:
            self.is_done = True
            self._done(self._token, msgspec.json.encode(value), None)

    def cancel(self) -> None:
        self.is_cancelled = True
        if not self.is_done:
            self.is_done = True
            self._done(self._token, None, CancelledError(self.envelope.name))


class Counting:
    """A stream of the numbers after ``first``, as far as credit and ``until`` go."""

    def __init__(
        self, sink: Sink, credit: int, *, first: int, until: int, end: Any = None, stream: str = "count/1"
    ) -> None:
        self._sink = sink
        self._next = first
        self._until = until
        self._end = end
        self.stream = stream
        self._credit = credit
        self.sent = 0
        self.is_disconnected = False
        self.is_ended = False
        self._advance()

    def grant(self, credit: int) -> None:
        self._credit += credit
        self._advance()

    def cancel(self) -> None:
        self._finish(None, CancelledError("test:count"))

    def disconnected(self) -> None:
        self.is_disconnected = True
        self._credit = 0

    def _advance(self) -> None:
        while self._credit and self._next <= self._until:
            self._sink.chunk(f"{self.stream}@{self._next}", b"%d" % self._next)
            self._next += 1
            self.sent += 1
            self._credit -= 1
        if self._next > self._until:
            self._finish(msgspec.json.encode(self._end), None)

    def _finish(self, raw: bytes | None, error: KSIError | None) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._sink.end(raw, error)


class Asked(msgspec.Struct):
    """What a typed frame asks for."""

    name: str
    dispatch: Any
    answer_now: None = None


class EchoDoor:
    """``test:hold`` waits, ``test:count`` streams, the others answer from ``handlers``."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {"test:echo": lambda data, _: data, "system:health": _health}
        self.held: list[HeldCall] = []
        self.streams: list[Counting] = []
        self.seen: list[EventEnvelope] = []
        self.sessions: list[Session] = []
        self.head = 0
        """Where subscriptions from the end begin."""
        self.is_silent = False
        """Streams give no chunks, whatever their credit."""
        self.frames = TypedFrames()

    def learn(self, name: str) -> None:
        self.frames.learn(name, msgspec.Raw, Asked(name, self.dispatch))

    def dispatch(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> HeldCall | None:
        self._note(envelope, session)
        if envelope.name == "test:hold":
            self.held.append(HeldCall(envelope, done, token))
            return self.held[-1]
        try:
            done(token, msgspec.json.encode(self._answer(envelope)), None)
        except KSIError as error:
            done(token, None, error)
        return None

    def accept(self, envelope: EventEnvelope, session: Session, done: Done, token: Any) -> None:
        self._note(envelope, session)
        receipt = {"event_id": ids.text(envelope.event_id), "correlation_id": envelope.correlation_id}
        done(token, msgspec.json.encode(receipt), None)

    def open_stream(self, envelope: EventEnvelope, session: Session, sink: Sink, credit: int) -> Counting:
        self._note(envelope, session)
        if envelope.name == "event:subscribe":
            after = envelope.data["after"]
            if after == "end":
                sink.opened(f"@{self.head}")
            start = {"start": 0, "end": self.head}.get(after)
            wanted: dict[str, Any] = {
                "first": 1 + (int(after[1:]) if start is None else start),
                "until": 10**9,
                "stream": "",
            }
        else:
            wanted = {"first": 1, "until": 3, "end": "counted"} | envelope.data
        self.streams.append(Counting(sink, 0 if self.is_silent else credit, **wanted))
        return self.streams[-1]

    def cancel(self, event_id: bytes, session: Session) -> bool:
        running = [call for call in self.held if call.envelope.event_id == event_id and not call.is_done]
        for call in running:
            call.cancel()
        return bool(running)

    def resume(self, address: str, session: Session, sink: Sink, credit: int) -> Counting:
        self.sessions.append(session)
        version = int(address.rpartition("@")[2])
        self.streams.append(Counting(sink, credit, first=version + 1, until=10, end="resumed"))
        return self.streams[-1]

    async def seen_count(self, count: int) -> None:
        """Wait until ``count`` requests and streams have arrived."""
        while len(self.seen) < count:  # noqa: ASYNC110  # turns of the loop in which the server reads
            await asyncio.sleep(0)

    def _note(self, envelope: EventEnvelope, session: Session) -> None:
        self.seen.append(envelope)
        self.sessions.append(session)

    def _answer(self, envelope: EventEnvelope) -> Any:
        handler = self.handlers.get(envelope.name)
        if handler is None:
            raise UnknownEventError(envelope.name, suggestions=["test:echo"])
        return handler(envelope.data, envelope)


def _health(data: Any, envelope: EventEnvelope) -> Any:
    return {"status": "healthy"}
