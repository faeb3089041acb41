"""What handlers give, in the form in which it is recorded: payloads of requests, facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.entries import checked_tags, checked_text, entry_from
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


def entry_of(stream: str, event: msgspec.Struct | NewEvent, tags: frozenset[str], subject: str | None) -> Entry:
    """The fact ``event`` in ``stream``, of ``subject`` where one is given.

    Raises:
        DeclarationError: One can not write there, or it has no name.
        ValidationError: Something of it is not of its type.
    """
    if checked_text("stream", stream).startswith("$"):
        raise DeclarationError(f"stream {stream!r}: names that begin with $ are KSI's own")
    entry = entry_from(stream, event) if isinstance(event, NewEvent) else _from_struct(stream, event, tags)
    if subject is not None:
        entry.subject = checked_text("subject", subject)
    return entry


def _from_struct(stream: str, event: Any, tags: frozenset[str]) -> Entry:
    named = fact_name(type(event))
    if named is None:
        raise DeclarationError(f"{type(event).__name__} has no fact name: write @fact('namespace:past_tense') above it")
    if tags:
        tags = checked_tags(tags)
    return Entry(stream=stream, name=named[0], data=canonical.encode(event), tags=tags, schema_version=named[1])
