"""Requests, answers and facts of sandboxes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ksi.core.events import fact

PIECE_BYTES_MAX = 256 << 10
TIMEOUT_MAX = 3600.0
ARGUMENTS_MAX = 1024
Owner = (
    Annotated[
        str,
        Meta(max_length=100, pattern=r"^[^/@*?\s]+$", description="whose sandbox; an agent has only its own"),
    ]
    | None
)
Data = Annotated[bytes, Meta(description="as base64")]
Path = Annotated[str, Meta(min_length=1, max_length=4096, description="below the sandbox, as in notes/today.md")]


class Listed(msgspec.Struct, frozen=True):
    """Something in a directory; ``bytes`` are those of a file."""

    name: str
    kind: Literal["file", "directory", "link", "other"]
    bytes: int


class Listing(msgspec.Struct, frozen=True):
    """``next`` is the ``after`` of the next page."""

    items: list[Listed]
    next: str | None


class Content(msgspec.Struct, frozen=True):
    """A piece of a file: ``text``, or as base64 ``data`` where it is none. ``bytes`` is the size of the whole file."""

    path: str
    offset: int
    bytes: int
    text: str | None = None
    data: Data | None = None


class Write(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file, whole: ``text``, or ``data`` as base64."""

    path: Path
    text: str | None = None
    data: Data | None = None
    agent: Owner = None


class Written(msgspec.Struct, frozen=True):
    path: str
    bytes: int


class Deleted(msgspec.Struct, frozen=True):
    """``deleted`` is false where nothing was there."""

    path: str
    deleted: bool


class Execute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command with its arguments; it is no line for a shell: for that write ``["sh", "-c", "…"]``."""

    command: Annotated[list[str], Meta(min_length=1, max_length=ARGUMENTS_MAX)]
    stdin: str = ""
    timeout: Annotated[float, Meta(gt=0, le=TIMEOUT_MAX, description="seconds")] = 60.0
    agent: Owner = None


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended: with a code, by a signal, or by its time. Of each output the first 24 KiB are kept."""

    exit_code: int | None
    signal: int | None
    timed_out: bool
    stdout: str
    stderr: str
    seconds: float


@fact("sandbox:was_written")
class FileWasWritten(msgspec.Struct, frozen=True):
    path: str
    bytes: int


@fact("sandbox:was_deleted")
class FileWasDeleted(msgspec.Struct, frozen=True):
    path: str


@fact("sandbox:was_run")
class CommandWasRun(msgspec.Struct, frozen=True, kw_only=True):
    command: list[str]
    exit_code: int | None
    signal: int | None
    timed_out: bool
    seconds: float
