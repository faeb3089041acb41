"""Facts as callers write them, checked: a constructor of msgspec takes values of any type, and the log keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from ksi.core import canonical
from ksi.core.clock import microseconds
from ksi.core.errors import ValidationError
from ksi.core.events import NewEvent
from ksi.core.ports import Entry

Text = Annotated[str, Meta(min_length=1)]


class _Written(msgspec.Struct, frozen=True, gc=False):
    """What of a :class:`NewEvent` has a type to be held to; its data is JSON of any shape."""

    name: Text
    event_id: UUID | None
    tags: frozenset[str]
    schema_version: Annotated[int, Meta(ge=1, le=2**31)]
    correlation_id: str | None
    causation_id: UUID | None
    subject: Text | None
    occurred_at: datetime | None
    metadata: dict[str, Any]


def entry_from(stream: str, event: NewEvent) -> Entry:
    """``event`` as a fact of ``stream``; without a run or a cause where it names none.

    Raises:
        ValidationError: Something is not of its type, or empty, or no JSON.
    """
    checked_text("stream", stream)
    if not isinstance(event, NewEvent):
        raise ValidationError(f"an event is a NewEvent, not {type(event).__name__}")
    written = event if _is_plain(event) else _checked(event)
    return Entry(
        stream=stream,
        name=written.name,
        data=_json(event.data),
        event_id=None if written.event_id is None else written.event_id.bytes,
        tags=written.tags,
        schema_version=written.schema_version,
        subject=written.subject,
        occurred_us=None if written.occurred_at is None else microseconds(written.occurred_at),
        metadata=written.metadata or None,
        correlation=written.correlation_id,
        cause=None if written.causation_id is None else written.causation_id.bytes,
    )


_NOTHING = [None, None, None, None]


def _is_plain(event: NewEvent) -> bool:
    """It has what most have, each of its type: that costs a tenth of asking msgspec."""
    return (
        type(event.name) is str
        and bool(event.name)
        and event.schema_version == 1
        and type(event.schema_version) is int
        and type(event.tags) is frozenset
        and all(type(tag) is str for tag in event.tags)
        and type(event.metadata) is dict
        and not event.metadata
        and (event.event_id is None or type(event.event_id) is UUID)
        and [event.correlation_id, event.causation_id, event.subject, event.occurred_at] == _NOTHING
    )


def _checked(event: NewEvent) -> _Written:
    try:
        return msgspec.convert(event, _Written, from_attributes=True, builtin_types=(UUID, datetime))
    except msgspec.ValidationError as error:
        raise ValidationError(f"the event {event.name!r}: {error}") from None


def _json(data: Mapping[str, Any] | bytes) -> bytes:
    if isinstance(data, bytes):
        canonical.decode(data)
        return data
    if not isinstance(data, Mapping):
        raise ValidationError(f"data is an object, or its JSON as bytes, not {type(data).__name__}")
    return canonical.encode(data)


def checked_text(what: str, text: str) -> str:
    """``text``, which is some. Raises ValidationError."""
    if type(text) is not str or not text:
        raise ValidationError(f"{what} is a text that is not empty, not {text!r}")
    return text


def checked_tags(tags: frozenset[str]) -> frozenset[str]:
    """``tags``, each of which is a text. Raises ValidationError."""
    try:
        return msgspec.convert(tags, frozenset[str])
    except msgspec.ValidationError as error:
        raise ValidationError(f"tags are a set of texts: {error}") from None
