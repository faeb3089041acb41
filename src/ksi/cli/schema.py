"""A JSON schema as people read it, and a payload as they type it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ksi.cli.output import json_line

Schema = Mapping[str, Any]


def schema_lines(schema: Schema) -> Iterator[str]:
    """The fields of an object, one a line, with type, need or default, and description; else the type alone."""
    definitions = schema.get("$defs", {})
    whole = _resolved(schema, definitions)
    fields = whole.get("properties")
    if not fields:
        yield "nothing" if whole.get("type") == "object" else type_of(whole, definitions)
        return
    required = whole.get("required", ())
    names_width = max(map(len, fields))
    types = {name: type_of(field, definitions) for name, field in fields.items()}
    types_width = max(map(len, types.values()))
    for name, field in fields.items():
        said = "required" if name in required else f"default {json_line(field.get('default'))}"
        line = f"{name:{names_width}}  {types[name]:{types_width}}  {said}  {field.get('description', '')}"
        yield line.rstrip()


def fields_of(schema: Schema) -> list[str]:
    """The names of an object's fields."""
    return list(_resolved(schema, schema.get("$defs", {})).get("properties", {}))


def type_of(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """A word or two for what fits ``schema``."""
    if "$ref" in schema:
        return str(_resolved(schema, definitions).get("title") or schema["$ref"].rpartition("/")[2])
    for words in ("anyOf", "oneOf"):
        if words in schema:
            return " | ".join(type_of(part, definitions) for part in schema[words])
    if "enum" in schema:
        return " | ".join(json_line(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"[{type_of(schema.get('items') or {}, definitions)}]"
    found = schema.get("type", "any")
    return " | ".join(found) if isinstance(found, list) else str(found)


def as_command(event_name: str, payload: Mapping[str, Any]) -> str:
    """The command line that sends ``payload``."""
    fields = (_as_field(key, value) for key, value in payload.items())
    return " ".join(("ksi send", event_name, *map(shlex.quote, fields)))


def _as_field(key: str, value: Any) -> str:
    if isinstance(value, str) and not value.startswith("@"):
        return f"{key}={value}"
    return f"{key}:={json_line(value)}"


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    if "$ref" not in schema:
        return schema
    return definitions.get(schema["$ref"].rpartition("/")[2], {})
