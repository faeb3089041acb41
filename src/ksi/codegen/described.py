"""One event as the registry knows it, in a form that can be saved and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ksi.kernel.spec import EventSpec

PAGE_BYTES = 512 << 10
"""Of the events in one answer: with many plugins all of them would not fit into a frame."""


class Described(msgspec.Struct, frozen=True):
    """One event, whole: JSON schemas of what it takes and gives, and the rules it runs by."""

    name: str
    kind: str
    summary: str
    doc: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any]
    chunk: Mapping[str, Any] | None
    errors: Sequence[str]
    examples: Sequence[Mapping[str, Any]]
    durability: str
    key: bool
    timeout_s: float | None
    plugin: str
    permission: str


def described(spec: EventSpec) -> Described:
    """``spec`` for those who are not in this process."""
    declaration = spec.declaration
    return Described(
        name=spec.name,
        kind=spec.kind,
        summary=spec.summary,
        doc=spec.doc,
        request=spec.payload.schema(),
        answer=_answer(spec),
        chunk=None if spec.chunk is None else spec.chunk.schema(),
        errors=declaration.errors,
        examples=declaration.examples,
        durability=declaration.durability,
        key=declaration.key is not None,
        timeout_s=declaration.timeout,
        plugin=", ".join(handler.owner for handler in spec.handlers),
        permission=declaration.permission if isinstance(declaration.permission, str) else spec.name,
    )


def page_of(events: Iterable[Described], after: str | None) -> tuple[list[Described], str | UnsetType]:
    """Those of ``events``, which are in the order of their names, behind ``after``; and the name that more follow."""
    page: list[Described] = []
    size = 0
    for event in events:
        if after is not None and event.name <= after:
            continue
        size += len(msgspec.json.encode(event))
        if page and size > PAGE_BYTES:
            return page, page[-1].name
        page.append(event)
    return page, UNSET


def _answer(spec: EventSpec) -> Mapping[str, Any]:
    """A stream that declares no end value ends with null."""
    ends_with_null = spec.kind == "stream" and spec.answer.hint is None
    schema = {"type": "null"} if ends_with_null else spec.answer.schema()
    if spec.declaration.answers == "all":
        return {"$defs": schema.get("$defs", {}), "type": "array", "items": _without_definitions(schema)}
    return schema


def _without_definitions(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in schema.items() if key != "$defs"}
