"""The original clients' lane: requests without an id, answered one after another in the order they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ksi.core.clock import Clock, utc
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.kernel.door import Door, Session
from ksi.transport.budget import Budget
from ksi.transport.envelopes import envelope_of
from ksi.wire import dialects
from ksi.wire.frames import Frame, Shape

Waiting = tuple[Frame, EventEnvelope] | KSIError


class FlatLane:
    """Serves frames without an id serially."""

    def __init__(
        self, door: Door, session: Session, send: Callable[[bytes], None], *, budget: Budget, clock: Clock
    ) -> None:
        self._door = door
        self._session = session
        self._send = send
        self._budget = budget
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._is_serving = False
        self.current: EventEnvelope | None = None
        """The request whose answer is still to come."""

    def __len__(self) -> int:
        """Requests that have no answer yet."""
        return len(self._waiting) + (self.current is not None)

    def take(self, frame: Frame) -> None:
        """Answer ``frame`` when its turn comes.

        Raises:
            OverloadedError: All connections together hold as much as they may.
            InvalidFrameError: An id in it is no UUID.
        """
        refusal = self._budget.refusal()
        if refusal is not None:
            raise refusal
        envelope = envelope_of(frame.event or "", frame.data, frame, self._session, self._clock)
        self._budget.hold(len(envelope.raw))
        self._enqueue((frame, envelope))

    def refuse(self, error: KSIError) -> None:
        """Answer a line that could not be read, when its turn comes."""
        self._enqueue(error)

    def clear(self) -> None:
        """Nobody reads the answers any more; what runs goes on."""
        for waiting in self._waiting:
            if not isinstance(waiting, KSIError):
                self._budget.release(len(waiting[1].raw))
        self._waiting.clear()

    def _enqueue(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        if not self._is_serving:
            self._serve()

    def _serve(self) -> None:
        self._is_serving = True
        while self._waiting and self.current is None:
            waiting = self._waiting.popleft()
            if isinstance(waiting, KSIError):
                self._send(dialects.failure(None, waiting))
            else:
                self._start(*waiting)
        self._is_serving = False

    def _start(self, frame: Frame, envelope: EventEnvelope) -> None:
        self.current = envelope
        serve = self._door.dispatch if frame.reply else self._door.accept
        serve(envelope, self._session, self._done, (frame, len(envelope.raw)))

    def _done(self, token: tuple[Frame, int], raw: bytes | None, error: KSIError | None) -> None:
        frame, size = token
        self.current = None
        self._budget.release(size)
        self._send(self._reply(frame, raw, error))
        if not self._is_serving:
            self._serve()

    def _reply(self, frame: Frame, raw: bytes | None, error: KSIError | None) -> bytes:
        if error is not None:
            return dialects.failure(frame, error)
        if frame.shape is Shape.FLAT:
            return dialects.flat(frame, raw or b"{}")
        return dialects.with_client_id(frame, raw or b"{}", utc(self._clock.time_us()))
