"""A stream's way to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ksi.core.errors import KSIError, PayloadTooLargeError
from ksi.kernel.door import StreamCall
from ksi.transport.outbox import Outbox
from ksi.wire import answers
from ksi.wire.frames import FrameId

CHUNKS_ON_THE_WAY = 256
BYTES_ON_THE_WAY = 128 << 10
"""Of chunks that are on their way to one reader; a single one may be larger."""
FIRST_CHUNKS = 1
"""The same before it is known how large they are."""


class Window:
    """What a reader granted, handed on in portions: however much it grants, little waits for a reader that stalls."""

    def __init__(self, granted: int, *, chunks_max: int = CHUNKS_ON_THE_WAY) -> None:
        self._granted = granted  #: and not handed on yet
        self._chunks_max = chunks_max
        self._width = FIRST_CHUNKS
        self._on_the_way = 0
        self._largest = 0

    def grant(self, chunks: int) -> None:
        """The reader grants more."""
        self._granted += chunks

    def came(self, size: int) -> None:
        """A chunk of ``size`` bytes came."""
        if size > self._largest:
            self._largest = size
            self._width = min(self._chunks_max, max(1, BYTES_ON_THE_WAY // size))

    def took(self, chunks: int) -> None:
        """The connection took so many chunks."""
        self._on_the_way -= chunks

    def next(self) -> int:
        """The next portion; 0 while half of what may be on the way is."""
        if self._on_the_way > self._width // 2:
            return 0
        portion = min(self._granted, self._width - self._on_the_way)
        self._granted -= portion
        self._on_the_way += portion
        return portion


class FrameSink:
    """A :class:`~ksi.kernel.door.Sink` that writes frames."""

    def __init__(
        self,
        frame_id: FrameId,
        outbox: Outbox,
        ended: Callable[[FrameId], None],
        *,
        credit: int,
        frame_bytes_max: int,
    ) -> None:
        self._frame_id = frame_id
        self._id_json = answers.id_json(frame_id)
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._send = outbox.send
        self._ended = ended
        self._limit = frame_bytes_max
        self._seq = 0
        self._untaken = 0  #: chunks that the connection did not take yet
        self._call: StreamCall | None = None
        self._is_refused = False
        self.window = Window(credit)
        self.is_ended = False

    # ── the reader ───────────────────────────────────────────────────────────────────────────────────────────────────
    def begin(self, call: StreamCall) -> None:
        """Read from ``call``, unless it has given too much already."""
        self._call = call
        if self._is_refused:
            call.cancel()
        else:
            self._ask()

    def grant(self, credit: int) -> None:
        self.window.grant(credit)
        self._ask()

    def resume(self) -> None:
        """Ask for more, if the connection takes what comes."""
        if not self._outbox.is_paused:
            self.window.took(self._untaken)
            self._untaken = 0
            self._ask()

    def disconnected(self) -> None:
        """Nobody reads any more."""
        if self._call is not None:
            self._call.disconnected()

    def _ask(self) -> None:
        if self._call is not None and not self.is_ended and (portion := self.window.next()):
            self._call.grant(portion)

    # ── as the router sees it ────────────────────────────────────────────────────────────────────────────────────────

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
        self.window.came(len(raw))
        self._untaken += 1
        if self._untaken == 1:
            self._loop.call_soon(self.resume)  # behind the write of this turn: then it is known whether it was taken

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
        self._is_refused = True
        if self._call is not None:
            self._call.cancel()
