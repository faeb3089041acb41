"""Answers for the original clients, which send no ``id``.

The flat dialect gets the handler's object with ``correlation_id`` in it; a frame with ``_client_id`` gets
``{event, data, count, correlation_id, timestamp}``. In both an error is a top-level ``error``; a success has none.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from ksi.core.errors import KSIError
from ksi.wire.answers import encode_json
from ksi.wire.frames import Frame

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def flat(frame: Frame, raw: bytes) -> bytes:
    """Success in the flat dialect: the object itself; anything else as ``{"result": …}``."""
    body = raw if _is_plain_object(raw) else b'{"result":%b}' % raw
    if frame.correlation_id is None:
        return body + b"\n"
    separator = b"" if body == b"{}" else b","
    return b'{"correlation_id":%b%b%b\n' % (encode_json(frame.correlation_id), separator, body[1:])


def _is_plain_object(raw: bytes) -> bool:
    if raw[:1] != b"{":
        return False
    if b'"error"' not in raw and b'"correlation_id"' not in raw:
        return True
    return not {"error", "correlation_id"} & _keys(raw).keys()


def with_client_id(frame: Frame, raw: bytes, now: datetime) -> bytes:
    """Success in the dialect of frames with ``_client_id``."""
    head = encode_json({"event": frame.event, "count": len(_items(raw)) if raw[:1] == b"[" else 1})
    tail = encode_json({"correlation_id": frame.correlation_id, "timestamp": now})
    return b'%b,"data":%b,%b\n' % (head[:-1], raw, tail[1:])


def failure(frame: Frame | None, error: KSIError) -> bytes:
    """Failure in both; ``frame`` is None where it could not be read."""
    message = error.message.encode("utf-8", "backslashreplace").decode()
    body = {"error": message, "code": error.code}
    if frame is not None and frame.correlation_id is not None:
        body["correlation_id"] = frame.correlation_id
    return encode_json(body) + b"\n"
