"""JSON schemas as trees: where one refers to another, and the same with other references."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
ANYTHING: Schema = {"description": "Any JSON."}

_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas")
# Titles repeat the names of Python's types. A discriminator says no more than the alternatives' own constants, and
# OpenAPI and AsyncAPI write it in ways that exclude each other.
_LEFT_OUT = ("$defs", "title", "discriminator")


def root_of(schema: Schema) -> Schema:
    """``schema`` without its definitions; where it only refers to one of them, that one."""
    whole = {key: value for key, value in schema.items() if key != "$defs"}
    reference = whole.pop("$ref", None)
    return whole if reference is None else {**schema["$defs"][name_in(reference)], **whole}


def name_in(reference: str) -> str:
    """The last part of ``#/$defs/NAME``."""
    return reference.rpartition("/")[2]


def rewritten(schema: Schema, rename: Callable[[str], str]) -> dict[str, Any]:
    """The same schema with each reference renamed, descriptions as plain text, and without definitions and titles."""
    return {key: _rewritten(key, value, rename) for key, value in schema.items() if key not in _LEFT_OUT}


def _rewritten(key: str, value: Any, rename: Callable[[str], str]) -> Any:
    match key:
        case "$ref":
            return rename(value)
        case "description":
            return plain(value)
        case _ if key in _ONE:
            return _part(value, rename)
        case _ if key in _MANY:
            return [_part(part, rename) for part in value]
        case _ if key in _NAMED:
            return {name: _part(part, rename) for name, part in value.items()}
        case _:
            return value


def _part(part: Any, rename: Callable[[str], str]) -> Any:
    """``true`` and ``false`` are schemas, too."""
    return rewritten(part, rename) if isinstance(part, Mapping) else part


def references(schema: Schema) -> list[str]:
    """What ``schema`` refers to, each as often as it does."""
    found: list[str] = []

    def note(reference: str) -> str:
        found.append(reference)
        return reference

    rewritten(schema, note)
    return found


def reachable(schema: Schema, definitions: Mapping[str, Schema]) -> set[str]:
    """Names of the definitions that ``schema`` needs, directly and through others."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        for name in map(name_in, references(waiting.pop())):
            if name not in found:
                found.add(name)
                waiting.append(definitions[name])
    return found


def plain(text: str) -> str:
    """A docstring for readers who know no reStructuredText."""
    return inspect.cleandoc(text).replace("``", "`")


def kinds_of(schema: Schema) -> Sequence[str]:
    """The JSON types that ``type`` names."""
    kinds = schema.get("type", ())
    return (kinds,) if isinstance(kinds, str) else kinds
