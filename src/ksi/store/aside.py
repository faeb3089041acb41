"""Damaged logs that were put aside when somebody went on without them: where they are, and how to be rid of them."""

from __future__ import annotations

from itertools import count
from pathlib import Path

_MARK = ".damaged-"
FILES = ("", "-wal", "-head")
"""What a log is made of, by what follows its name."""


def free_name(log: Path) -> Path:
    names = (log.with_name(f"{log.name}{_MARK}{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def damaged_logs(log: Path) -> list[Path]:
    """All files of those that were put aside of the log at ``log``. Their read models are as readable as they were."""
    return sorted(log.parent.glob(f"{log.name}{_MARK}*"))


def left(log: Path, *, remove: bool) -> tuple[str, ...]:
    """Those that are there, once they are removed where that is wanted."""
    for file in damaged_logs(log) if remove else ():
        file.unlink(missing_ok=True)
    return tuple(map(str, damaged_logs(log)))
