"""Small catalogues, to be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ksi.codegen.catalogue import Catalogue, catalogue_of
from ksi.codegen.described import Described

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}


def structure(required: Iterable[str] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": [*required], "additionalProperties": False}


def event_with(
    request: Schema | None = None, answer: Schema | None = None, chunk: Schema | None = None, **rules: Any
) -> Catalogue:
    """That of one event, a stream where it has chunks."""
    kind = "query" if chunk is None else "stream"
    event = Described(
        name="a:x", kind=kind, summary="", doc="", request=request or structure(), answer=answer or structure(),
        chunk=chunk, errors=[], examples=[], durability="none", key=False, timeout_s=None, plugin="a", permission="a:x",
    )  # fmt: skip
    return catalogue_of([msgspec.structs.replace(event, **rules)])
