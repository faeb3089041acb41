"""Frames as HTTP messages: a request as method, path, headers and body; what comes back as frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ksi.core.errors import InvalidFrameError, RemoteError
from ksi.wire.answers import Answer, WireError
from ksi.wire.frames import NO_DATA, Request

LINES = "application/x-ndjson"
_HEADERS = {
    "event_id": "idempotency-key",
    "correlation_id": "ksi-correlation-id",
    "causation_id": "ksi-causation-id",
    "branch": "ksi-branch",
    "priority": "ksi-priority",
    "timeout": "ksi-timeout",
    "traceparent": "traceparent",
}
_NOTHING_SAID = Request()
_NOBODY_THERE = (502, 503, 504)
"""What a proxy says, in words of its own, when there is no daemon behind it."""


class Message(msgspec.Struct, frozen=True):
    """An HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


def message_of(request: Request) -> Message:
    """How ``request`` is asked over HTTP."""
    if request.resume is not None:
        headers = {"accept": LINES, "ksi-credit": str(request.credit or 0)}
        return Message("GET", f"/v1/stream/{quote(request.resume, safe='/:@')}", headers)
    headers = {
        header: str(getattr(request, field))
        for field, header in _HEADERS.items()
        if getattr(request, field) != getattr(_NOTHING_SAID, field)
    }
    if request.stream:
        headers |= {"accept": LINES, "ksi-credit": str(request.credit or 0)}
    if not request.reply:
        headers["prefer"] = "respond-async"
    path = f"/v1/{'stream' if request.stream else 'events'}/{quote(request.event or '', safe=':')}"
    return Message("POST", path, headers, bytes(request.data or NO_DATA))


class _Line(msgspec.Struct):
    at: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    end: bool = False
    error: WireError | None = None
    gap: dict[str, Any] | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


def frame_in(line: bytes) -> Answer:
    """The frame that a line of a stream's body holds; ``seq`` tells a chunk, and counts nothing.

    Raises:
        InvalidFrameError: It is none.
    """
    try:
        said = _decode_line(line)
    except (ValueError, RecursionError) as error:
        raise InvalidFrameError(f"no frame: {error}") from None
    has_data = bytes(said.data) != b""
    return Answer(
        at=said.at,
        data=said.data if has_data else msgspec.Raw(b"null"),
        seq=1 if has_data and not said.end else None,
        end=said.end,
        error=said.error,
        gap=said.gap,
    )


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""
    details: dict[str, Any] = {}


def problem_in(status: int, body: bytes) -> WireError | None:
    """The error that an answer with ``status`` stands for; None: it says nothing of the request."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (ValueError, RecursionError):
        return None if status in _NOBODY_THERE else WireError(code=RemoteError.code, message=f"HTTP {status}")
    return WireError(code=problem.code, message=problem.detail, details=problem.details)
