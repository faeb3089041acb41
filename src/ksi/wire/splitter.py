"""Bytes into lines, with bounded memory."""

from __future__ import annotations

from ksi.core.errors import PayloadTooLargeError

FRAME_BYTES_MAX = 1 << 20
_PARTS_MAX = 1024  # A line that comes byte by byte would otherwise hold an object of 34 bytes for each of them.

Line = bytes | PayloadTooLargeError
"""The error stands where a line was that is too long."""


class Splitter:
    """Cuts what arrives at newlines; of a line that is too long nothing is kept."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._limit = frame_bytes_max
        self._parts: list[bytes] = []
        self._is_skipping = False
        self.size = 0
        """Bytes held of a line that is not complete."""

    def feed(self, data: bytes) -> list[Line]:
        """Complete lines, without their newline."""
        lines = data.split(b"\n")
        rest = lines.pop()
        whole: list[Line] = lines  # type: ignore[assignment]  # nobody else holds it: a copy would cost every read
        if lines and (self._parts or self._is_skipping):
            whole[0] = self._completed(lines[0])
        if len(data) > self._limit:
            whole = [self._checked(line) for line in whole]
        if rest and not self._is_skipping:
            self._hold(rest)
        return whole

    def _checked(self, line: Line) -> Line:
        return self._too_large() if isinstance(line, bytes) and len(line) > self._limit else line

    def _completed(self, end: bytes) -> Line:
        is_too_large = self._is_skipping or self.size + len(end) > self._limit
        line = self._too_large() if is_too_large else b"".join((*self._parts, end))
        self._is_skipping = False
        self.drop()
        return line

    def _hold(self, rest: bytes) -> None:
        self._parts.append(rest)
        self.size += len(rest)
        if self.size > self._limit:
            self.drop()
            self._is_skipping = True
        elif len(self._parts) > _PARTS_MAX:
            self._parts = [b"".join(self._parts)]

    def drop(self) -> None:
        """Keep nothing of a line that is not complete."""
        self._parts = []
        self.size = 0

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError("frame", size=None, limit=self._limit)
