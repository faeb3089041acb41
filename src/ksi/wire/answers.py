"""Frames that the daemon sends, built around JSON that is encoded already, and read by the client.

::

    {"id":7,"ok":true,"data":{…}}              {"id":7,"ok":false,"error":{"code":"…","message":"…","details":{…}}}
    {"id":8,"at":"@41"}      {"id":8,"seq":1,"at":"completion/01J…@1","data":{…}}      {"id":8,"gap":{…}}
    {"id":8,"end":true,"data":{…}}             {"id":8,"end":true,"error":{…}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.core.errors import InvalidFrameError, KSIError, from_wire

FRAME_OVERHEAD = 4096
"""Bytes that an answer's frame may have beside its data: a reader's limit is this much above the writer's."""

_encoder = msgspec.json.Encoder(enc_hook=str)
encode_json = _encoder.encode


def id_json(frame_id: int | str | None) -> bytes:
    """``frame_id`` as JSON."""
    return b"%d" % frame_id if frame_id.__class__ is int else encode_json(frame_id)


ANSWER, ANSWER_END = b'{"id":%d,"ok":true,"data":', b"}\n"
"""Around the JSON of a success, where the id is a number: for who writes it in parts."""


def answer(frame_id: int | str, raw: bytes) -> bytes:
    """Success; ``raw`` is the answer's JSON."""
    if frame_id.__class__ is int:  # in one step: this is every command's way
        return b'{"id":%d,"ok":true,"data":%b}\n' % (frame_id, raw)
    return b'{"id":%b,"ok":true,"data":%b}\n' % (encode_json(frame_id), raw)


def failure(frame_id: int | str | None, error: KSIError) -> bytes:
    """Failure; no id where the frame that it answers could not be read."""
    return b'{"id":%b,"ok":false,"error":%b}\n' % (id_json(frame_id), error_json(error))


def opened(frame_id: bytes, at: str) -> bytes:
    """The first frame of a stream that begins behind an address which its reader did not name."""
    return b'{"id":%b,"at":%b}\n' % (frame_id, encode_json(at))


def chunk(frame_id: bytes, seq: int, at: str | None, raw: bytes) -> bytes:
    """The ``seq``-th chunk of a stream. ``frame_id`` is JSON already, in all of a stream's frames: it has many."""
    if at is None:
        return b'{"id":%b,"seq":%d,"data":%b}\n' % (frame_id, seq, raw)
    return b'{"id":%b,"seq":%d,"at":%b,"data":%b}\n' % (frame_id, seq, encode_json(at), raw)


def gap(frame_id: bytes, info: Mapping[str, Any]) -> bytes:
    """Chunks were dropped here."""
    return b'{"id":%b,"gap":%b}\n' % (frame_id, encode_json(info))


def end(frame_id: bytes, raw: bytes | None, error: KSIError | None) -> bytes:
    """The last frame of a stream."""
    if error is not None:
        return b'{"id":%b,"end":true,"error":%b}\n' % (frame_id, error_json(error))
    return b'{"id":%b,"end":true,"data":%b}\n' % (frame_id, raw or b"null")


def hello(*, server: str, principal: str, pid: int) -> bytes:
    """Who answers here, and whom it takes the connection for."""
    return encode_json({"hello": 1, "server": server, "principal": principal, "pid": pid}) + b"\n"


def push(frame: Mapping[str, Any]) -> bytes:
    """A frame that nobody asked for now.

    Raises:
        ValueError: It has no JSON form.
    """
    return encode_json(frame) + b"\n"


def error_json(error: KSIError) -> bytes:
    """``{"code", "message", "details"}``; details without a JSON form are left out: an answer must go out."""
    try:
        return encode_json({"code": error.code, "message": error.message, "details": error.details()})
    except (ValueError, TypeError, RecursionError):
        message = error.message.encode("ascii", "backslashreplace").decode()
        return encode_json({"code": error.code, "message": message, "details": {}})


class WireError(msgspec.Struct, kw_only=True):
    """An error as it stands in a frame."""

    code: str = "error"
    message: str = ""
    details: dict[str, Any] = {}

    def raised(self) -> KSIError:
        """The daemon's own error."""
        return from_wire(self.code, self.message, self.details)


class Answer(msgspec.Struct, kw_only=True):
    """Any frame of the daemon."""

    id: int | str | None = None
    ok: bool | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: WireError | None = None
    seq: int | None = None
    at: str | None = None
    end: bool = False
    gap: dict[str, Any] | None = None
    hello: int | None = None
    server: str | None = None
    principal: str | None = None
    pid: int | None = None
    event: str | None = None


_decode = msgspec.json.Decoder(Answer).decode


def decode(line: bytes) -> Answer:
    """The daemon's frame that a line holds.

    Raises:
        InvalidFrameError: It is none.
    """
    try:
        return _decode(line)
    except (ValueError, RecursionError) as error:
        raise InvalidFrameError(f"no answer: {error}") from None
