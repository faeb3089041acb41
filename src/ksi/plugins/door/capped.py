"""What a capped call says upstream beside what its script said, so that its budget can be settled.

A stream of chat completions says its usage only where that is asked for. A script that did not ask is not told.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import KSIError
from ksi.plugins.door.paid import answers_in, output_tokens_max
from ksi.plugins.door.shapes import Asked, Bytes, Part, Piece

BOUND_MAX = 4_096
"""A smaller bound every model takes; one that has more room is cut where that ends."""
BOUNDS = {"chat/completions": "max_completion_tokens", "responses": "max_output_tokens", "completions": "max_tokens"}
EVENT_BYTES_MAX = 1 << 20
_END = re.compile(rb"\r?\n\r?\n")


class Unasked(msgspec.Struct, frozen=True, tag="unasked"):
    """An event of a stream that its script did not ask for."""

    text: str

    @property
    def piece(self) -> Piece:
        return Piece(Bytes(self.text))


def added(asked: Asked, granted: int) -> dict[str, Any]:
    """The fields that go upstream beside those of ``asked``; ``granted`` tokens may be written."""
    body = asked.json()
    if asked.protocol != "openai" or asked.path not in BOUNDS or not isinstance(body, dict):
        return {}
    fields: dict[str, Any] = {}
    if granted <= BOUND_MAX and output_tokens_max(body) is None:
        fields[BOUNDS[asked.path]] = max(1, granted // answers_in(body))
    options = body.get("stream_options") or {}
    if asked.path != "responses" and body.get("stream") is True and not options.get("include_usage"):
        fields["stream_options"] = {**options, "include_usage": True}
    return fields


def with_fields(asked: Asked, fields: dict[str, Any]) -> Asked:
    """As it goes upstream."""
    body = asked.json()
    return (
        msgspec.structs.replace(asked, body=Bytes(canonical.encode({**body, **fields}).decode())) if fields else asked
    )


async def without_usage(parts: AsyncGenerator[Part, None]) -> AsyncGenerator[Part | Unasked, None]:
    """``parts``, which this owns, in whole events; that which says the usage and nothing else is set apart."""
    kept = b""
    async with aclosing(parts):
        async for part in parts:
            if not isinstance(part, Piece):
                yield part
                continue
            *events, kept = _split(kept + part.body.raw())
            if events and not any(map(_is_usage, events)):
                yield Piece(Bytes.of(b"".join(events)))
                continue
            for event in events:
                yield Unasked(event.decode()) if _is_usage(event) else Piece(Bytes.of(event))
        if kept:
            yield Piece(Bytes.of(kept))


def _split(raw: bytes) -> list[bytes]:
    """Whole events, and behind them what is none yet."""
    ends = [match.end() for match in _END.finditer(raw)]
    pieces = [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]
    return pieces if len(pieces[-1]) <= EVENT_BYTES_MAX else [*pieces, b""]


def _is_usage(event: bytes) -> bool:
    if b'"usage"' not in event:
        return False
    data = b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        said = canonical.decode(data.strip())
    except (ValueError, KSIError):
        return False
    return isinstance(said, dict) and said.get("choices") == [] and bool(said.get("usage"))
