"""Log lines are written behind: by a thread of their own, from a bounded buffer.

Whoever logs, the loop above all, pays for the text of a line and never for a disk that is full, slow or gone, nor for a
terminal that somebody has stopped with Ctrl-S. What the buffer has no room for, or what can not be written, is dropped
and counted, and the next line that can be written says how many there were.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Protocol

LINES_MAX = 2_048
LINE_CHARS_MAX = 16 << 10
"""Of a line that is longer the rest is cut: the buffer holds 32 MiB at the most."""
CLOSE_TIMEOUT = 2.0
"""Seconds that what is buffered has to be written at the end."""
_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where lines end."""

    def write(self, line: bytes) -> None:
        """Write it, with its line break; may take as long as it likes. Raises OSError where it can not."""

    def close(self) -> None: ...


class Behind(QueueHandler):
    """Formats where it is called, and has a thread write."""

    queue: Queue[Any]

    def __init__(self, sink: Sink, *, lines_max: int = LINES_MAX) -> None:
        super().__init__(Queue(lines_max))
        self._without_room = 0  # counted under the handler's lock, which whoever logs holds
        self._unwritten = 0  # counted by the writer
        self._said = 0
        self._sink = sink
        # A daemon thread, for one that hangs in a write must not keep the process.
        self._writer = Thread(target=self._write_all, name="ksi-log-lines", daemon=True)
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written since the start."""
        return self._without_room + self._unwritten

    def prepare(self, record: logging.LogRecord) -> str:
        """The line: here, in the caller's context, and before its arguments change."""
        line = self.format(record)
        return line if len(line) <= LINE_CHARS_MAX else f"{line[:LINE_CHARS_MAX]}… ({len(line)} characters in all)"

    def enqueue(self, line: Any) -> None:
        try:
            self.queue.put_nowait(line)
        except Full:
            self._without_room += 1

    def close(self) -> None:
        """Write what is left, for two seconds at the most."""
        with suppress(Full):
            self.queue.put(None, timeout=CLOSE_TIMEOUT / 2)
        self._writer.join(CLOSE_TIMEOUT / 2)
        super().close()

    def _write_all(self) -> None:
        while (line := self.queue.get()) is not None:
            self._write(line)
        self._write()
        self._sink.close()

    def _write(self, *lines: str) -> None:
        """``lines``, behind a word on those that were dropped."""
        dropped = self.dropped
        try:
            if dropped > self._said:
                self._sink.write(_encoded(self._lost(dropped - self._said)))
                self._said = dropped
            for line in lines:
                self._sink.write(_encoded(line))
        except OSError:
            self._unwritten += len(lines)

    def _lost(self, count: int) -> str:
        text = "%d lines are missing here: the disk was full, or too slow for them"
        return self.format(_log.makeRecord(_log.name, logging.WARNING, __file__, 0, text, (count,), None))


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


class RotatedFile:
    """A file that is put aside as ``NAME.1``, ``NAME.2`` … when it is full; the oldest goes."""

    def __init__(self, path: Path, *, file_bytes_max: int, files_max: int) -> None:
        """``files_max`` counts the one that is written, too."""
        self._path = path
        self._bytes_max = file_bytes_max
        self._files_max = files_max
        self._descriptor = -1
        self._bytes = 0
        self._is_torn = False

    def write(self, line: bytes) -> None:
        """Without a buffer of its own: what is refused here does not come later."""
        if self._descriptor < 0:
            self._open()
        if self._bytes and self._bytes + len(line) > self._bytes_max:
            self._turn()
        self._put(b"\n" + line if self._is_torn else line)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._bytes = os.fstat(self._descriptor).st_size

    def _turn(self) -> None:
        self.close()
        for number in range(self._files_max - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        if self._files_max == 1:
            self._path.unlink(missing_ok=True)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _put(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        self._bytes += written
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, "a part of a line was written")


class Terminal:
    """A terminal, or what stands for one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """It stays open: it is not ours."""
