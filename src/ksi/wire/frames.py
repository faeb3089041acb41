"""Frames that a client sends: one JSON object a line, as :class:`Frame`; what the daemon sends is in ``answers``.

::

    {"id":7,"event":"state:set","data":{…},"event_id":"…","correlation_id":"…","priority":5,"timeout":10.0}
    {"id":8,"event":"completion:create","data":{…},"stream":true,"credit":16}
    {"id":8,"credit":16}   {"id":8,"cancel":true}   {"id":9,"resume":"completion/01J…@17","credit":16}
    {"hello":1,"token":"…","client":"…"}
    {"event":"state:set","data":{…},"correlation_id":"…","_client_id":"…"}        the original clients' dialects
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core import ids
from ksi.core.errors import InvalidFrameError, ValidationError
from ksi.core.events import MAIN

CREDIT_MAX = 65_536
NO_DATA = msgspec.Raw(b"{}")

FrameId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]


class Kind(Enum):
    """What a frame asks for."""

    REQUEST = "request"
    STREAM = "stream"
    RESUME = "resume"
    CREDIT = "credit"
    CANCEL = "cancel"
    HELLO = "hello"
    FLAT = "flat"  #: a request without ``id``, of either original dialect


class Shape(Enum):
    """The form in which a connection is answered."""

    PROTOCOL = "protocol"
    FLAT = "flat"
    CLIENT_ID = "client_id"


class Head(msgspec.Struct, kw_only=True, gc=False):
    """All of a frame but its event and data. Unknown keys are passed over; ``timeout`` is in seconds."""

    id: FrameId | None = None
    stream: bool = False
    credit: Annotated[int, Meta(ge=0, le=CREDIT_MAX)] | None = None
    cancel: bool = False
    resume: Text | None = None
    reply: bool = True
    event_id: Name | None = None
    correlation_id: Name | None = None
    causation_id: Name | None = None
    branch: Name = MAIN
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    timeout: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    traceparent: Name | None = None
    subject: Name | None = None
    hello: int | None = None
    token: Text | None = None
    client: Name | None = None
    client_id: Name | None = msgspec.field(name="_client_id", default=None)


class Frame(Head, kw_only=True, gc=False):
    """What a client sends."""

    event: Name | None = None
    data: msgspec.Raw = NO_DATA

    @property
    def kind(self) -> Kind:
        """What it asks for.

        Raises:
            InvalidFrameError: Nothing, or a stream without an id.
        """
        if self.event is not None:
            return self._kind_of_request()
        if self.hello is not None:
            return Kind.HELLO
        if self.id is None:
            raise InvalidFrameError("a frame needs an event, or the id of a request")
        if self.resume is not None:
            return Kind.RESUME
        if self.cancel:
            return Kind.CANCEL
        if self.credit is not None:
            return Kind.CREDIT
        raise InvalidFrameError("a frame needs an event, resume, credit or cancel", id=self.id)

    def _kind_of_request(self) -> Kind:
        if self.id is not None:
            return Kind.STREAM if self.stream else Kind.REQUEST
        if self.stream:
            raise InvalidFrameError("a stream needs an id")
        return Kind.FLAT

    @property
    def shape(self) -> Shape:
        """The form in which its sender reads answers."""
        if self.id is not None or self.event is None:
            return Shape.PROTOCOL
        return Shape.FLAT if self.client_id is None else Shape.CLIENT_ID

    @property
    def raw(self) -> bytes:
        """The payload's JSON, free of the buffer that it came in."""
        return payload_json(self.data)


def payload_json(data: msgspec.Raw) -> bytes:
    """``data``, free of the buffer that it came in; null stands for no fields."""
    raw = bytes(data)
    return raw if raw != b"null" else b"{}"


class _JustId(msgspec.Struct):
    id: FrameId | None = None


read = msgspec.json.Decoder(Frame).decode
"""The frame that a line holds. Raises ValueError or RecursionError, of which :func:`invalid` makes the error."""

_decode_id = msgspec.json.Decoder(_JustId).decode


def decode(line: bytes) -> Frame:
    """The frame that a line holds.

    Raises:
        InvalidFrameError: It is none; ``id`` is among the facts where it could be read.
    """
    try:
        return read(line)
    except (ValueError, RecursionError) as error:
        raise invalid(line, error) from None


def invalid(line: bytes, error: Exception) -> InvalidFrameError:
    """Why ``line`` is no frame; ``id`` is among the facts where it can be read."""
    facts: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        facts["id"] = _decode_id(line).id
    return InvalidFrameError(f"no frame: {error}", **{name: fact for name, fact in facts.items() if fact is not None})


def id_bytes(text: str, *, field: str) -> bytes:
    """The 16 bytes of an event id as it stands in a frame.

    Raises:
        InvalidFrameError: It is no UUID.
    """
    try:
        if len(text) == 36 and text.count("-") == 4:
            return _exact(bytes.fromhex(text.replace("-", "")))
        return ids.parse(text)
    except (ValueError, ValidationError):
        raise InvalidFrameError(f"{field} is no UUID: {text!r}", field=field) from None


def _exact(raw: bytes) -> bytes:
    if len(raw) != 16:
        raise ValueError("not 16 bytes")
    return raw


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A frame as a client writes it; a key at its default is left out."""

    id: int | None = None
    event: str | None = None
    data: msgspec.Raw | None = None
    stream: bool = False
    credit: int | None = None
    cancel: bool = False
    resume: str | None = None
    reply: bool = True
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    branch: str = MAIN
    priority: int = 0
    timeout: float | None = None
    traceparent: str | None = None
    subject: str | None = None
    hello: int | None = None
    token: str | None = None
    client: str | None = None


_encoder = msgspec.json.Encoder()


def encode(request: Request) -> bytes:
    """The line that says ``request``, with its newline."""
    return _encoder.encode(request) + b"\n"
