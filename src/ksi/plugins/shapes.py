"""How recorded events look to clients, one form for every plugin that shows the log; how clients name places in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ksi.core import ids
from ksi.core.errors import ValidationError
from ksi.core.events import Kind, Position, RecordedEvent
from ksi.wire.splitter import FRAME_BYTES_MAX

_POSITION = r"^@?[0-9]{1,18}$"
Place = Annotated[
    Annotated[int, Meta(ge=0, lt=10**18)] | Annotated[str, Meta(extra_json_schema={"pattern": _POSITION})],
    Meta(description="position in the log: 1234 or @1234"),
]
"""The pattern is only said: :func:`position` refuses with better words."""
File = Annotated[str, Meta(description="a file on the daemon's machine, absolute")]
Folder = Annotated[str, Meta(description="a folder on the daemon's machine, absolute")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="at most so many")]

MODEL_ERRORS = (
    "budget_exceeded", "context_length", "interrupted", "invalid_answer", "model_unavailable", "provider_auth",
    "provider_bug", "provider_error", "provider_invalid_request", "provider_overloaded", "provider_timeout",
    "rate_limited", "stream_interrupted",
)  # fmt: skip
"""What an event may answer with that asks a model."""
DIGITS_MAX = 18
"""Of a position: what has more is none in any log."""
PAGE_BYTES = 512 * 1024
"""Of data in a page: an answer is one frame, and a frame has at most 1 MiB."""
DATA_BYTES_MAX = FRAME_BYTES_MAX - (16 << 10)
"""Of one event's data. What is larger would let nobody come past it: the event is shown without."""


class ShownEvent(msgspec.Struct, frozen=True):
    """An event as the log holds it. ``data`` of an outcome is ``{"ok", "data"}`` or ``{"ok", "error"}``.

    Data that no frame holds is null, and ``data_bytes`` says how large it is.
    """

    position: int
    name: str
    kind: Kind
    stream: str
    version: int
    event_id: str
    correlation_id: str | None
    causation_id: str | None
    recorded_at: datetime
    principal: str | None
    data: msgspec.Raw
    metadata: Mapping[str, Any]
    data_bytes: int | UnsetType = UNSET


def shown(event: RecordedEvent) -> ShownEvent:
    """``event`` for clients; its data goes through as it stands."""
    metadata = dict(event.metadata)
    size = len(event.raw)
    is_shown = size <= DATA_BYTES_MAX
    return ShownEvent(
        position=event.position,
        name=event.name,
        kind=event.kind,
        stream=event.stream,
        version=event.version,
        event_id=ids.text(event.id),
        correlation_id=event.correlation_id,
        causation_id=None if event.cause is None else ids.text(event.cause),
        recorded_at=event.recorded_at,
        principal=metadata.pop("principal", None),
        data=msgspec.Raw(event.raw if is_shown else b"null"),
        metadata=metadata,
        data_bytes=UNSET if is_shown else size,
    )


async def page_of(events: AsyncIterator[RecordedEvent], limit: int) -> tuple[list[ShownEvent], bool]:
    """The first ``limit`` of ``events``, fewer where they are large, and whether there may be more."""
    found: list[ShownEvent] = []
    size = 0
    async for event in events:
        size += min(len(event.raw), DATA_BYTES_MAX)
        if found and size > PAGE_BYTES:
            return found, True
        found.append(shown(event))
        if len(found) == limit:
            return found, True
    return found, False


def position(place: int | str) -> Position:
    """The position that a client wrote as ``1234`` or ``@1234``.

    Raises:
        ValidationError: It is neither.
    """
    digits = str(place).removeprefix("@")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= DIGITS_MAX):
        raise ValidationError(f"{place!r} is no position: write @1234")
    return Position(int(digits))


def file_of(path: str) -> Path:
    """The file that a client names, there or not.

    Raises:
        ValidationError: It is not absolute, or its directory is not there.
    """
    target = Path(path)
    if not target.is_absolute() or not target.parent.is_dir():
        raise ValidationError(f"{path!r} is no file in a directory that is there, from the root on")
    return target


def optional_position(place: int | str | None) -> Position | None:
    """The same where nothing may be said."""
    return None if place is None else position(place)
