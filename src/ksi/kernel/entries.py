"""What handlers give, in the form in which it is recorded: payloads of requests, facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.clock import microseconds
from ksi.core.errors import DeclarationError
from ksi.core.events import NewEvent, fact_name
from ksi.core.ports import Entry


def encode(data: Any, fields: Mapping[str, Any]) -> bytes:
    """The payload that ``data`` (mapping, struct, model, JSON bytes) and ``fields`` stand for, as canonical JSON."""
    if hasattr(data, "__pydantic_serializer__"):
        data = data.model_dump(mode="json")
    if not fields:
        return data if isinstance(data, bytes) else canonical.encode(data)
    base = canonical.decode(data) if isinstance(data, bytes) else msgspec.to_builtins(data)
    return canonical.encode({**base, **fields})


def entry_of(stream: str, event: msgspec.Struct | NewEvent, tags: frozenset[str]) -> Entry:
    """The fact ``event`` in ``stream``. Raises DeclarationError where one can not write there, or it has no name."""
    if stream.startswith("$"):
        raise DeclarationError(f"stream {stream!r}: names that begin with $ are KSI's own")
    return _from_new(stream, event) if isinstance(event, NewEvent) else _from_struct(stream, event, tags)


def _from_struct(stream: str, event: Any, tags: frozenset[str]) -> Entry:
    named = fact_name(type(event))
    if named is None:
        raise DeclarationError(f"{type(event).__name__} has no fact name: write @fact('namespace:past_tense') above it")
    return Entry(stream=stream, name=named[0], data=canonical.encode(event), tags=tags, schema_version=named[1])


def _from_new(stream: str, event: NewEvent) -> Entry:
    return Entry(
        stream=stream,
        name=event.name,
        data=event.data if isinstance(event.data, bytes) else canonical.encode(event.data),
        event_id=None if event.event_id is None else event.event_id.bytes,
        tags=event.tags,
        schema_version=event.schema_version,
        subject=event.subject,
        occurred_us=None if event.occurred_at is None else microseconds(event.occurred_at),
        metadata=event.metadata or None,
        correlation=event.correlation_id,
        cause=None if event.causation_id is None else event.causation_id.bytes,
    )
