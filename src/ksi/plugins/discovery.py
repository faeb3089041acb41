"""What an event takes, in the words of the original clients: Python's names of types, read out of a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ksi.kernel.spec import EventSpec

_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}
Schema = Mapping[str, Any]


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of a payload. ``type`` is ``str`` only where null is refused: the original clients check that."""

    type: str
    required: bool
    description: str
    default: Any = msgspec.UNSET


def parameters_of(spec: EventSpec) -> dict[str, Parameter]:
    """The fields of an event's payload, by name."""
    schema = spec.payload.schema()
    definitions = schema.get("$defs", {})
    whole = _resolved(schema, definitions)
    required = whole.get("required", ())
    return {
        name: Parameter(
            type=type_name(field, definitions),
            required=name in required,
            description=field.get("description", ""),
            default=field.get("default", msgspec.UNSET),
        )
        for name, field in whole.get("properties", {}).items()
    }


def type_name(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """``str``, ``int``, ``list``, ``dict``, …; ``Optional[str]`` where null will do; ``Any`` where all will."""
    schema = _resolved(schema, definitions)
    if "enum" in schema or "const" in schema:
        return _joined([_name_of(value) for value in schema.get("enum", [schema.get("const")])])
    if "anyOf" in schema:
        return _joined([type_name(part, definitions) for part in schema["anyOf"]])
    kinds = schema.get("type", ())
    return _joined([_NAMES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _joined(names: list[str]) -> str:
    kinds = list(dict.fromkeys(name for name in names if name != "None"))
    if not kinds:
        return "None" if names else "Any"
    inner = kinds[0] if len(kinds) == 1 else f"Union[{', '.join(kinds)}]"
    return f"Optional[{inner}]" if "None" in names else inner


def _name_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """``schema`` where it refers to another by ``$ref``: that one, with what was said beside it."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return {**definitions[reference.rpartition("/")[2]], **{key: schema[key] for key in schema if key != "$ref"}}
