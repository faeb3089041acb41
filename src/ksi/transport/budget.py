"""What connections may hold, each and all together."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ksi.core.errors import OverloadedError
from ksi.wire.splitter import FRAME_BYTES_MAX


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the doors; times in seconds."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    in_flight_max: int = 16_384  #: of one connection
    in_flight_total_max: int = 65_536
    inbound_bytes_max: int = 256 << 20  #: of all connections, beyond what each holds freely
    inbound_bytes_free: int = 64 << 10
    write_bytes_high: int = 256 << 10  #: reading pauses while more than this waits to be written
    write_bytes_max: int = 64 << 20  #: at more than this the connection is aborted at once
    stall_timeout: float = 30.0  #: a connection that blocks for so long is aborted
    connections_max: int = 4_096
    turn_frames_max: int = 64
    turn_seconds: float = 0.002


class Budget:
    """Requests in flight and bytes held, of all connections together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests_max, self._bytes_max = limits.in_flight_total_max, limits.inbound_bytes_max
        self._waiting: set[Callable[[], None]] = set()
        self.requests = 0
        self.bytes = 0
        self.is_tight = False
        """A bound is reached; kept as a value because every request looks at it."""

    @property
    def is_full(self) -> bool:
        """Whether no more bytes fit."""
        return self.bytes >= self._limits.inbound_bytes_max

    def refusal(self) -> OverloadedError | None:
        """Why one more request does not fit now; None where it does."""
        if not self.is_tight:
            return None
        if self.requests >= self._limits.in_flight_total_max:
            return OverloadedError("requests in flight", limit=self._limits.in_flight_total_max)
        if self.is_full:
            return OverloadedError("bytes of requests in flight", limit=self._limits.inbound_bytes_max)
        return None

    def hold(self, size: int) -> None:
        """One more request, of ``size`` bytes."""
        self.requests += 1
        self.bytes += size
        if self.requests >= self._requests_max or self.bytes >= self._bytes_max:
            self.is_tight = True

    def release(self, size: int) -> None:
        """One request less."""
        self.requests -= 1
        self.bytes -= size
        if self.is_tight or self._waiting:
            self.change(0)

    def change(self, size: int) -> None:
        """Bytes held by lines that are not complete: more, or fewer."""
        self.bytes += size
        self.is_tight = self.is_full or self.requests >= self._limits.in_flight_total_max
        if self._waiting and not self.is_full:
            self._wake()

    def when_room(self, resume: Callable[[], None]) -> None:
        """Call ``resume`` once more bytes fit."""
        self._waiting.add(resume)

    def forget(self, resume: Callable[[], None]) -> None:
        self._waiting.discard(resume)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for resume in waiting:
            resume()
