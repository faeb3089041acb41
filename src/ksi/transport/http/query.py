"""Query strings as payloads. A query string holds nothing but text; the schema says what each text stands for.

Where it does not fit, the text stays as it is, and the event's own decoder says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from ksi.core import canonical
from ksi.core.errors import ValidationError

Schema = Mapping[str, Any]
FIELDS_MAX = 256


def payload_of(query: bytes, schema: Schema, fixed: Mapping[str, str]) -> bytes:
    """The payload's JSON out of ``a=1&b=x&b=y``; what ``fixed`` says wins.

    Raises:
        ValidationError: It is no query string, or has more than 256 fields.
    """
    try:
        given = parse_qs(query.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise ValidationError(f"no query string: {error}") from None
    given |= {name: [value] for name, value in fixed.items()}
    root = _resolved(schema, schema)
    properties: Mapping[str, Schema] = root.get("properties", {})
    return canonical.encode({name: _value(texts, properties.get(name, {}), schema) for name, texts in given.items()})


def _value(texts: list[str], schema: Schema, root: Schema) -> Any:
    """What the texts of one name stand for: a list where one is declared, or where there are several."""
    shapes = list(_shapes(schema, root))
    lists = [shape for shape in shapes if shape.get("type") == "array"]
    if lists and (len(texts) > 1 or not any(_scalar(shape) for shape in shapes)):
        items = lists[0].get("items") or {}
        return [_value([text], items if isinstance(items, Mapping) else {}, root) for text in texts]
    return _read(texts[-1], shapes) if len(texts) == 1 else texts


def _read(text: str, shapes: list[Schema]) -> Any:
    kinds = {shape.get("type") for shape in shapes}
    for kind, read in _READERS.items():
        if kind in kinds:
            with suppress(ValueError, KeyError, ValidationError):
                return read(text)
    return text


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _nothing(text: str) -> None:
    return {"null": None}[text]


_READERS: Mapping[str, Callable[[str], Any]] = {
    "null": _nothing,
    "boolean": _boolean,
    "integer": int,
    "number": float,
    "object": lambda text: canonical.decode(text.encode()),
}


def _scalar(shape: Schema) -> bool:
    return shape.get("type") not in ("array", "null")


def _shapes(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The alternatives that a schema allows."""
    schema = _resolved(schema, root)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives is None:
        kinds = schema.get("type")
        yield from [{**schema, "type": kind} for kind in kinds] if isinstance(kinds, list) else [schema]
        return
    for alternative in alternatives:
        yield from _shapes(alternative, root)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema that a ``$ref`` points to."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema
