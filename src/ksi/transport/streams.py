"""A stream's way to its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ksi.core.errors import KSIError, PayloadTooLargeError
from ksi.kernel.door import StreamCall
from ksi.wire import answers
from ksi.wire.frames import FrameId


class FrameSink:
    """A :class:`~ksi.kernel.door.Sink` that writes frames."""

    def __init__(
        self,
        frame_id: FrameId,
        send: Callable[[bytes], None],
        ended: Callable[[FrameId], None],
        *,
        frame_bytes_max: int,
    ) -> None:
        self._frame_id = frame_id
        self._id_json = answers.id_json(frame_id)
        self._send = send
        self._ended = ended
        self._limit = frame_bytes_max
        self._seq = 0
        self.call: StreamCall | None = None
        self.is_ended = False

    def opened(self, at: str) -> None:
        if not self.is_ended:
            self._send(answers.opened(self._id_json, at))

    def chunk(self, at: str | None, raw: bytes) -> None:
        if self.is_ended:
            return
        if len(raw) > self._limit:
            self._refuse(PayloadTooLargeError("chunk", size=len(raw), limit=self._limit))
            return
        self._seq += 1
        self._send(answers.chunk(self._id_json, self._seq, at, raw))

    def gap(self, info: Mapping[str, Any]) -> None:
        if not self.is_ended:
            self._send(answers.gap(self._id_json, info))

    def end(self, raw: bytes | None, error: KSIError | None) -> None:
        if self.is_ended:
            return
        if raw is not None and len(raw) > self._limit:
            error = PayloadTooLargeError("end value", size=len(raw), limit=self._limit)
        self.is_ended = True
        self._send(answers.end(self._id_json, raw, error))
        self._ended(self._frame_id)

    def _refuse(self, error: KSIError) -> None:
        self.end(None, error)
        if self.call is not None:
            self.call.cancel()
