"""CloudEvents over HTTP: a request in one document (structured) or with its attributes as headers (binary).

The answer is an event of the same name, in the same form: ``ksicause`` is the id of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from ksi.core import canonical, ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ValidationError
from ksi.kernel.door import Session
from ksi.transport.http.problems import Headers

MEDIA = b"application/cloudevents+json"
_PREFIX = b"ce-"
_NUMBERS = ("ksihops", "ksipriority", "ksischemaversion")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


def is_binary(headers: Mapping[bytes, bytes]) -> bool:
    return b"ce-specversion" in headers


def from_structured(body: bytes, name: str, session: Session) -> EventEnvelope:
    """The request that a document stands for.

    Raises:
        ValidationError: It is no CloudEvent 1.0, or its type is not ``name``.
    """
    event = canonical.decode(body)
    if not isinstance(event, dict):
        raise ValidationError("no CloudEvent 1.0: it is not an object")
    return _request(event, name, session)


def from_binary(headers: Mapping[bytes, bytes], body: bytes, name: str, session: Session) -> EventEnvelope:
    """The request that ``ce-`` headers and a body stand for. Raises as :func:`from_structured`."""
    event: dict[str, Any] = {
        header[len(_PREFIX) :].decode("latin-1"): unquote(value.decode("latin-1"))
        for header, value in headers.items()
        if header.startswith(_PREFIX)
    }
    for number in _NUMBERS:
        if event.get(number, "").lstrip("-").isdecimal():
            event[number] = int(event[number])
    if body:
        event["data"] = canonical.decode(body)
    if b"traceparent" in headers:
        event.setdefault("traceparent", headers[b"traceparent"].decode("latin-1"))
    return _request(event, name, session)


def _request(event: Mapping[str, Any], name: str, session: Session) -> EventEnvelope:
    """What the sender says of the event, but not who it is and how it came to be: that is for the daemon to say."""
    envelope = EventEnvelope.from_cloudevent(event)
    if envelope.name != name:
        raise ValidationError(f"the CloudEvent's type is {envelope.name!r}, and it was sent to {name!r}")
    envelope.principal = session.principal
    envelope.path = ""
    envelope.time_us = 0
    return envelope


def structured(request: EventEnvelope, raw: bytes) -> bytes:
    """The answer ``raw`` as a document."""
    return canonical.encode(_outcome(request, raw))


def binary(request: EventEnvelope, raw: bytes) -> Headers:
    """The attributes of the answer as headers."""
    attributes = _outcome(request, raw)
    del attributes["data"], attributes["datacontenttype"]
    return [
        (_PREFIX + name.encode(), quote(str(value), safe=_PRINTABLE).encode()) for name, value in attributes.items()
    ]


def _outcome(request: EventEnvelope, raw: bytes) -> dict[str, Any]:
    outcome = EventEnvelope(
        name=request.name,
        raw=raw,
        principal=request.principal,
        branch=request.branch,
        id=ids.derived(request.event_id, "outcome"),
        correlation=request.correlation_id,
        cause=request.event_id,
        hops=request.hops,
        subject=request.subject,
        traceparent=request.traceparent,
    )
    return outcome.to_cloudevent()
