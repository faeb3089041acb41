"""What the daemon says of itself: standard logging, one line a record, with the run and the event that it belongs to.

Plugins use ``logging`` (or ``context.logger``) and need nothing of KSI for it.
"""

from __future__ import annotations

import logging
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

import msgspec

from ksi.core import ids
from ksi.core.context import current

FILE_BYTES_MAX = 10 << 20
FILES_MAX = 5
Level = Literal["debug", "info", "warning", "error"]


class Line(logging.Formatter):
    """``2026-01-31T12:00:00.000Z info ksi.kernel … run=… event=…``, with the traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{stamp(record)} {record.levelname.lower()} {record.name} {record.getMessage()}"
        text += "".join(f" {name}={value}" for name, value in of_event().items())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonLine(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, ``run``, ``event``, ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **of_event(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def stamp(record: logging.LogRecord) -> str:
    """UTC, milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def of_event() -> dict[str, str]:
    """Run and event of the request that is handled here and now."""
    envelope = current.get()
    if envelope is None:
        return {}
    return {"run": envelope.correlation_id, "event": f"{envelope.name}/{ids.text(envelope.event_id)}"}


def configure(*, level: Level = "info", json: bool = False, file: Path | None = None) -> None:
    """Send all log lines to ``file`` (rotated: 5 of 10 MiB) and, on a terminal, to stderr as well."""
    formatter = JsonLine() if json else Line()
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(RotatingFileHandler(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_MAX, encoding="utf-8"))
    if file is None or sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level.upper())
    if level == "info":
        logging.getLogger("httpx").setLevel(logging.WARNING)  # each call of a model is in the log of events
    for handler in handlers:
        handler.setFormatter(formatter)
