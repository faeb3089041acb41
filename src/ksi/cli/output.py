"""How answers look: records as lines for people, or as lines of JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

from ksi.cli.invocation import Invocation

Record = dict[str, Any]
ID_LENGTH_MIN = 18
_STATUS_COLOURS = {"ok": "green", "healthy": "green", "warn": "yellow", "open": "cyan", "interrupted": "yellow"}


def json_line(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def show_value(invocation: Invocation, value: Any) -> None:
    """JSON: indented for people, else one line."""
    line = json_line(value)
    click.echo(line if invocation.json else msgspec.json.format(line, indent=2))


def show_records(invocation: Invocation, records: Iterable[Record], as_text: Callable[[Record], str]) -> None:
    """One line for each, at once."""
    for record in records:
        click.echo(json_line(record) if invocation.json else as_text(record))


def show_table(
    invocation: Invocation, records: Sequence[Record], columns: Sequence[str], cells: Callable[[Record], Sequence[str]]
) -> None:
    """Columns below their names; for programs the records themselves."""
    if invocation.json:
        show_records(invocation, records, json_line)
        return
    rows = [list(cells(record)) for record in records]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    click.secho(_row(columns, widths), bold=True)
    for row in rows:
        click.echo(fitted(_row(row, widths)))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def fitted(line: str) -> str:
    """``line``, cut at the edge of the terminal; whole where no terminal is."""
    if not sys.stdout.isatty():
        return line
    width = os.get_terminal_size(sys.stdout.fileno()).columns
    return line if len(line) <= width else line[: width - 1] + "…"


def status(word: str, width: int = 0) -> str:
    """``word`` in its colour, at least so wide."""
    return click.style(word.ljust(width), fg=_STATUS_COLOURS.get(word, "red"))


def duration(milliseconds: float | None) -> str:
    """``1.2 ms``, ``3.4 s``, ``5:06 min``; nothing where it is not known."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02} min"


def size(size_bytes: float) -> str:
    """``512 B``, ``93.8 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_of(moment: str | None) -> str:
    """Day and time here, of a moment in ISO form; nothing where there is none."""
    if moment is None:
        return ""
    return datetime.fromisoformat(moment).astimezone().strftime("%m-%d %H:%M:%S")


def tokens_of(record: Record) -> str:
    """``45 tokens``, where the record counts any."""
    return f"{record['tokens']} tokens" if record.get("tokens") else ""


def short(event_ids: Sequence[str]) -> list[str]:
    """The heads of ids that tell them from each other: a UUIDv7 begins with its millisecond."""
    length = ID_LENGTH_MIN
    while len({event_id[:length] for event_id in event_ids}) < len(set(event_ids)):
        length += 1
    return [event_id[:length] for event_id in event_ids]
