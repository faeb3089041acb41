"""Server-sent events: pieces of a body to the data of its events, pure."""

from __future__ import annotations

EVENT_BYTES_MAX = 1 << 20


class EventTooLongError(ValueError):
    """An event of more than :data:`EVENT_BYTES_MAX` bytes."""


class EventDecoder:
    """Feed it the body, in pieces of any size. An event that the body's end cuts off is dropped, as the standard says.

    By hand, as httpx splits lines at U+2028 and its like, which JSON may hold.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that ``piece`` completes; comments and other fields are passed over.

        Raises:
            EventTooLongError: The sender does not end its event.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = [data for line in lines if (data := self._line(line.removesuffix(b"\r"))) is not None]
        if self._size + len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLongError(f"an event of more than {EVENT_BYTES_MAX} bytes")
        return events

    def _line(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._size += len(line)
        if line or not self._data:
            return None
        data = b"\n".join(self._data)
        self._data, self._size = [], 0
        return data
