"""Names what blocks the event loop: inline code is trusted, and this is what finds out when the trust was misplaced."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

BEAT = 0.25
"""Seconds between two heartbeats of the loop."""
BLOCKED_AFTER = 1.0
"""Seconds without a heartbeat that count as blocked: four beats, so that busy does not look like blocked."""
_log = logging.getLogger("ksi.watchdog")


class Watchdog:
    """A thread that looks whether the loop still beats, and logs the loop's stack once when it does not."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._beat_at = time.monotonic()
        self._stopped = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._watch, name="ksi-watchdog", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(BEAT, self._beat)

    def _watch(self) -> None:
        reported_at = 0.0
        while not self._stopped.wait(BEAT):
            beat_at = self._beat_at
            if time.monotonic() - beat_at > BLOCKED_AFTER and beat_at != reported_at:
                reported_at = beat_at
                self._report()

    def _report(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # the only way to see another thread's stack
        stack = "" if frame is None else "".join(traceback.format_stack(frame))
        _log.warning(
            "the event loop is blocked for more than %g s by the code below; declare the handler blocking=True, "
            "or make it async\n%s",
            BLOCKED_AFTER,
            stack,
        )
