"""What the daemon says of itself: standard logging, one line a record, with the run and the event that it belongs to.

Plugins use ``logging`` (or ``context.logger``) and need nothing of KSI for it; ``extra={"rows": 3}`` is a value of its
own in the line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from ksi.core import ids
from ksi.core.config import LogSection
from ksi.core.context import current
from ksi.observe.behind import Behind, RotatedFile, Terminal

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_COLOURS = {"DEBUG": "2", "INFO": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class Line(logging.Formatter):
    """``2026-01-31T12:00:00.000Z info ksi.kernel … run=… event=…``, with the traceback below.

    A record never looks like two, and never steers a terminal: control characters in a text are shown as escapes.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = f"{stamp(record)} {record.levelname.lower()} {record.name} {_one_line(record.getMessage())}"
        text += "".join(f" {name}={_one_line(str(value))}" for name, value in values_of(record).items())
        return "\n  ".join([text, *self.traceback_of(record)])

    def traceback_of(self, record: logging.LogRecord) -> list[str]:
        return self.formatException(record.exc_info).splitlines() if record.exc_info else []


class Pretty(Line):
    """The same for people: the time of the day, levels in colours, what belongs to it dim."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = _coloured(f"{record.levelname.lower():7}", _COLOURS.get(record.levelname, "0"))
        text = f"{_coloured(when, '2')} {level} {_one_line(record.getMessage())}"
        values = "".join(f" {name}={_one_line(str(value))}" for name, value in values_of(record).items())
        text += _coloured(f"  {record.name}{values}", "2")
        return "\n  ".join([text, *self.traceback_of(record)])


class JsonLine(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, ``run``, ``event``, ``error``; extras."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            **values_of(record),
            "time": stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(fields, enc_hook=str).decode()
        except UnicodeEncodeError:  # half of a pair of UTF-16, which no UTF-8 holds
            return json.dumps(fields, default=str)


def stamp(record: logging.LogRecord) -> str:
    """UTC, milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def values_of(record: logging.LogRecord) -> dict[str, Any]:
    """``extra`` of the record; run and event of the request that is handled here and now."""
    values = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    envelope = current.get()
    if envelope is None:
        return values
    return values | {"run": envelope.correlation_id, "event": f"{envelope.name}/{ids.text(envelope.event_id)}"}


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _coloured(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def configure(wanted: LogSection, file: Path) -> None:
    """Send all log lines to ``file`` and, on a terminal, to stderr as well. Nobody who logs waits for either."""
    into_file = Behind(RotatedFile(file, file_bytes_max=wanted.file_bytes_max, files_max=wanted.files_max))
    into_file.setFormatter(JsonLine() if wanted.json else Line())
    handlers: list[logging.Handler] = [into_file]
    if sys.stderr.isatty():
        on_terminal = Behind(Terminal(sys.stderr.fileno()))
        on_terminal.setFormatter(Line() if os.environ.get("NO_COLOR") else Pretty())
        handlers.append(on_terminal)
    _install(handlers, wanted.level)


def configure_plain(level: str) -> None:
    """Send them to stderr at once: for a child that has one job, and nobody who would wait."""
    plain = logging.StreamHandler()
    plain.setFormatter(Line())
    _install([plain], level)


def _install(handlers: list[logging.Handler], level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level.upper())
    if level == "info":
        logging.getLogger("httpx").setLevel(logging.WARNING)  # each call of a model is in the log of events


def lines_dropped() -> int:
    """Lines that were not written since the start, because a buffer was full or a disk took nothing."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, Behind))
