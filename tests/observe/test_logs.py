"""Log lines are written behind whoever logs: none is lost without a word, and nobody waits for a disk."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import msgspec
import pytest

from ksi.core.config import LogSection
from ksi.core.context import current
from ksi.core.envelope import EventEnvelope
from ksi.observe.behind import LINE_CHARS_MAX, Behind, RotatedFile, Terminal
from ksi.observe.logs import JsonLine, Line, Pretty, configure, lines_dropped

MISSING = re.compile(r"(\d+) lines are missing here")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root of all loggers, which is afterwards as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "a.b", "levelno": 30, "levelname": "WARNING", "msg": message, **extra})


def accounted(written: str) -> int:
    """Lines that are there, and those that are said to be missing."""
    lines = written.splitlines()
    return sum(int(found[1]) if (found := MISSING.search(line)) else 1 for line in lines)


def test_who_logs_does_not_wait_for_a_disk_that_takes_nothing_and_what_is_dropped_is_said(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    os.mkfifo(stuck)
    reader = os.open(stuck, os.O_RDONLY | os.O_NONBLOCK)
    held = os.open(stuck, os.O_WRONLY)  # so that it does not end before the writer has opened it
    behind = Behind(RotatedFile(stuck, file_bytes_max=1 << 30, files_max=2), lines_max=8)
    for number in range(200):
        behind.handle(record(f"{number} {'x' * 4000}"))  # a pipe takes 64 KiB
    assert behind.dropped > 100
    os.set_blocking(reader, True)
    read: list[str] = []
    with os.fdopen(reader, encoding="utf-8") as pipe:
        reading = Thread(target=lambda: read.append(pipe.read()))
        reading.start()
        behind.close()
        os.close(held)
        reading.join()
    assert accounted(read[0]) == 200
    assert read[0].count("are missing here") >= 1


class Valve:
    """A disk that is full until it is opened."""

    def __init__(self) -> None:
        self.refused, self.opened, self.lines = Event(), Event(), list[bytes]()

    def write(self, line: bytes) -> None:
        if not self.opened.is_set():
            self.refused.set()
            raise OSError(28, "No space left on device")
        self.lines.append(line)

    def close(self) -> None: ...


@pytest.mark.parametrize("another", [True, False])
def test_what_a_full_disk_refused_is_said_when_there_is_room_at_the_end_at_the_latest(another: bool) -> None:
    valve = Valve()
    behind = Behind(valve)
    behind.handle(record("lost"))
    assert valve.refused.wait(10)
    valve.opened.set()
    if another:
        behind.handle(record("kept"))
    behind.close()
    assert b"1 lines are missing here" in valve.lines[0]
    assert [line.split()[-1] for line in valve.lines[1:]] == [b"kept"] * another
    assert behind.dropped == 1


def test_a_line_that_was_cut_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", file_bytes_max=1 << 20, files_max=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="a part of a line"):
            file.write(b"first\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.write(b"second\n")
    file.close()
    assert (tmp_path / "log").read_text() == "firs\nsecond\n"


def test_full_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", file_bytes_max=10, files_max=3)
    for number in range(10):
        file.write(b"line %d\n" % number if number % 2 else b"%d\n" % number)
    file.close()
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log": "8\nline 9\n", "log.1": "6\nline 7\n", "log.2": "4\nline 5\n"}
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_one_file_begins_anew(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", file_bytes_max=4, files_max=1)
    file.write(b"one\n")
    file.write(b"two\n")
    file.close()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["two\n"]


def test_a_line_of_any_length_takes_bounded_room() -> None:
    valve = Valve()
    valve.opened.set()
    behind = Behind(valve)
    behind.handle(record("x" * (LINE_CHARS_MAX + 1)))
    behind.close()
    assert valve.lines[0].endswith(f"… ({LINE_CHARS_MAX + 1} characters in all)\n".encode())


def test_a_forged_line_break_makes_no_second_line_and_no_text_steers_a_terminal() -> None:
    assert Line().format(record("a\nb\x1b[2J", who="c\r\nd")).endswith(r"a\nb\x1b[2J who=c\r\nd")


def test_json_has_extras_and_the_request_and_extras_forge_nothing() -> None:
    envelope = EventEnvelope.create("state:set", {})
    token = current.set(envelope)
    try:
        line = msgspec.json.decode(JsonLine().format(record("done", rows=3, where=Path("/a"), level="forged")))
    finally:
        current.reset(token)
    assert (line["level"], line["rows"], line["where"], line["run"]) == ("warning", 3, "/a", envelope.correlation_id)
    assert line["event"].startswith("state:set/")


def test_what_no_utf8_holds_is_a_line_of_json_all_the_same() -> None:
    line = JsonLine().format(record("half a pair: \ud800", where=Path("/a")))
    assert line.isascii()
    assert (json.loads(line)["message"], json.loads(line)["where"]) == ("half a pair: \ud800", "/a")


def test_a_terminal_gets_colours_and_the_time_of_the_day() -> None:
    ours, theirs = pty.openpty()
    behind = Behind(Terminal(theirs))
    behind.setFormatter(Pretty())
    behind.handle(record("slow"))
    behind.close()
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert re.fullmatch(
        r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m \x1b\[33mwarning\x1b\[0m slow\x1b\[2m  a\.b\x1b\[0m\r\n", shown
    )


def test_the_level_is_honoured_and_the_file_is_json_where_that_is_wanted(tmp_path: Path, root: logging.Logger) -> None:
    configure(LogSection(level="error", json=True), tmp_path / "daemon.log")
    logging.getLogger("a").warning("quiet")
    logging.getLogger("a").error("loud", extra={"rows": 3})
    root.handlers[0].close()
    (line,) = map(msgspec.json.decode, (tmp_path / "daemon.log").read_text().splitlines())
    assert (line["message"], line["rows"], lines_dropped()) == ("loud", 3, 0)
