"""How a stream is written: server-sent events, or a JSON object a line (NDJSON)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ksi.core.errors import KSIError
from ksi.transport.http.exchange import Exchange
from ksi.wire.answers import encode_json, error_json


class Format(Protocol):
    """How a stream is written."""

    media: bytes
    heartbeat: bytes

    def opening(self, at: str) -> bytes: ...
    def chunk(self, at: str | None, raw: bytes) -> bytes: ...
    def gap(self, info: Mapping[str, Any]) -> bytes: ...
    def end(self, raw: bytes | None, error: KSIError | None) -> bytes: ...


class ServerSentEvents:
    """``id`` is the durable address, so that a browser resumes by itself; the last event is ``end`` or ``failure``."""

    media = b"text/event-stream"
    heartbeat = b":\n\n"

    def opening(self, at: str) -> bytes:
        address = at.encode()
        return b'event: open\nid: %b\ndata: {"at":%b}\n\n' % (address, encode_json(at))

    def chunk(self, at: str | None, raw: bytes) -> bytes:
        return b"data: %b\n\n" % raw if at is None else b"id: %b\ndata: %b\n\n" % (at.encode(), raw)

    def gap(self, info: Mapping[str, Any]) -> bytes:
        return b"event: gap\ndata: %b\n\n" % encode_json(info)

    def end(self, raw: bytes | None, error: KSIError | None) -> bytes:
        if error is not None:
            return b"event: failure\ndata: %b\n\n" % error_json(error)
        return b"event: end\ndata: %b\n\n" % (raw or b"null")


class JsonLines:
    """The frames of the wire protocol without ``id`` and ``seq``; an empty line says that the stream lives."""

    media = b"application/x-ndjson"
    heartbeat = b"\n"

    def opening(self, at: str) -> bytes:
        return b'{"at":%b}\n' % encode_json(at)

    def chunk(self, at: str | None, raw: bytes) -> bytes:
        return b'{"data":%b}\n' % raw if at is None else b'{"at":%b,"data":%b}\n' % (encode_json(at), raw)

    def gap(self, info: Mapping[str, Any]) -> bytes:
        return b'{"gap":%b}\n' % encode_json(info)

    def end(self, raw: bytes | None, error: KSIError | None) -> bytes:
        if error is not None:
            return b'{"end":true,"error":%b}\n' % error_json(error)
        return b'{"end":true,"data":%b}\n' % (raw or b"null")


FORMATS: tuple[Format, ...] = (ServerSentEvents(), JsonLines())


def format_of(exchange: Exchange) -> Format:
    """As the client accepts it; server-sent events where it does not say."""
    return next((form for form in FORMATS if exchange.accepts(form.media)), FORMATS[0])
