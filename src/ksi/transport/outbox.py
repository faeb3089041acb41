"""What leaves a connection: answers of one turn in one write, and pushes behind the answers they belong to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Set
from typing import Any

from ksi.core import canonical
from ksi.core.errors import PayloadTooLargeError
from ksi.transport.budget import Limits

PUSHES_MAX = 1_024


class Outbox:
    """Collects bytes until the end of the loop's turn. It is the connection's reply channel too."""

    def __init__(self, limits: Limits, awaited: Callable[[], Set[str]]) -> None:
        """``awaited`` tells the runs (correlation ids) whose answers are still to come."""
        self._limits = limits
        self._awaited = awaited
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._pushes: deque[tuple[str | None, bytes]] = deque()
        self._is_due = False
        self.is_paused = False
        """The peer does not read: pushes wait."""

    def open(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=self._limits.write_bytes_high)
        self._transport = transport

    def close(self) -> None:
        """Drop what is here, and whatever comes."""
        self._transport = None
        self._parts.clear()
        self._pushes.clear()

    def send(self, frame: bytes) -> None:
        """Write ``frame`` with all others of this turn."""
        self._parts.append(frame)
        if not self._is_due:
            self._schedule()

    def push(self, frame: Mapping[str, Any]) -> None:
        """Send ``frame`` behind the answer of its run; dropped where 1,024 wait already.

        Raises:
            ValidationError: It has no JSON form.
            PayloadTooLargeError: It is larger than a frame may be.
        """
        line = canonical.encode(frame) + b"\n"
        if len(line) > self._limits.frame_bytes_max:
            raise PayloadTooLargeError("pushed frame", size=len(line), limit=self._limits.frame_bytes_max)
        if self._transport is None or len(self._pushes) >= PUSHES_MAX:
            return
        correlation = frame.get("correlation_id")
        self._pushes.append((correlation if isinstance(correlation, str) else None, line))
        if not self._is_due:
            self._schedule()

    def hold(self) -> None:
        """The caller flushes by itself at the end of this turn."""
        self._is_due = True

    @property
    def append(self) -> Callable[[bytes], None]:
        """:meth:`send` for the turn of a caller that flushes at its end."""
        return self._parts.append

    def flush(self) -> None:
        """Write all that was sent."""
        self._is_due = False
        if self._pushes and not self.is_paused:
            self._release_pushes()
        if not self._parts:
            return
        transport, parts = self._transport, self._parts
        self._parts = []
        if transport is None:
            return
        transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if self.is_paused and transport.get_write_buffer_size() > self._limits.write_bytes_max:
            transport.abort()

    def _schedule(self) -> None:
        self._is_due = True
        self._loop.call_soon(self.flush)

    def _release_pushes(self) -> None:
        awaited = self._awaited()
        held: deque[tuple[str | None, bytes]] = deque()
        for correlation, line in self._pushes:
            if correlation in awaited:
                held.append((correlation, line))
            else:
                self._parts.append(line)
        self._pushes = held
