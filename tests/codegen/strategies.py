"""Schemas, values that fit them, and schemas that differ from them in one place."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.codegen.events import Schema, structure

SMALL = st.integers(-2, 3)
BOUNDS = st.tuples(SMALL, SMALL).map(sorted)
CONSTANTS = st.lists(st.sampled_from([None, True, 1, "x", "xyz"]), min_size=1, unique_by=repr)
ANYTHING = st.recursive(
    st.none() | st.booleans() | SMALL | st.sampled_from([0.5, "", "x", "xyz"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
LEAVES = st.one_of(
    st.sampled_from([{}, {"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}]),
    st.builds(lambda bounds: {"type": "integer", "minimum": bounds[0], "maximum": bounds[1]}, BOUNDS),
    st.builds(lambda low: {"type": "number", "minimum": low}, SMALL),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, SMALL),
    st.builds(lambda low: {"type": "string", "minLength": low, "maxLength": 3}, st.integers(0, 3)),
    st.builds(lambda values: {"enum": values}, CONSTANTS),
)


def _composed(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(lambda each: {"anyOf": each}, st.lists(parts, min_size=1, max_size=2)),
        st.builds(lambda items, high: {"type": "array", "items": items, "maxItems": high}, parts, st.integers(0, 2)),
        st.builds(lambda value: {"type": "object", "additionalProperties": value}, parts),
        st.builds(_fields, st.dictionaries(st.sampled_from("ab"), st.tuples(parts, st.booleans()), min_size=1)),
    )


def _fields(fields: dict[str, tuple[Schema, bool]]) -> Schema:
    """An object; each field is its schema, and whether it must be there."""
    return structure(
        [name for name, (_, is_required) in fields.items() if is_required],
        **{name: part for name, (part, _) in fields.items()},
    )


SCHEMAS = st.recursive(LEAVES, _composed, max_leaves=4)


def value_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that fit ``schema``."""
    match schema:
        case {"enum": values}:
            return st.sampled_from(values)
        case {"anyOf": parts}:
            return st.one_of(*map(value_of, parts))
        case {"type": list() as kinds}:
            return st.one_of(*(value_of({"type": kind}) for kind in kinds))
        case {"type": "array"}:
            return st.lists(value_of(schema["items"]), max_size=schema["maxItems"])
        case {"type": "object", "additionalProperties": dict() as part}:
            return st.dictionaries(st.sampled_from("ab"), value_of(part))
        case {"type": "object"}:
            each = {name: value_of(part) for name, part in schema["properties"].items()}
            required = {name: part for name, part in each.items() if name in schema["required"]}
            return st.fixed_dictionaries(required, optional={name: each[name] for name in each.keys() - required})
        case {"type": kind}:
            return _scalars(kind, schema)
    return ANYTHING


def _scalars(kind: str, schema: Schema) -> st.SearchStrategy[Any]:
    match kind:
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 0.5)
            return st.sampled_from([least, least + 0.5, least + 1])
        case "string":
            return st.text("x", min_size=schema.get("minLength", 0), max_size=3)
    return st.booleans() if kind == "boolean" else st.none()


def edited(schema: Schema) -> st.SearchStrategy[Schema]:
    """Schemas like ``schema``, with another one in one place of it, or in place of it."""
    match schema:
        case {"anyOf": [first, *rest]}:
            return SCHEMAS | edited(first).map(lambda part: {"anyOf": [part, *rest]}) | st.just({"anyOf": rest or [{}]})
        case {"type": "array"}:
            return SCHEMAS | edited(schema["items"]).map(lambda part: {**schema, "items": part})
        case {"type": "object", "additionalProperties": dict() as each}:
            return SCHEMAS | edited(each).map(lambda part: {**schema, "additionalProperties": part})
        case {"type": "object", "properties": fields}:
            name = min(fields)
            changed = edited(fields[name]).map(lambda part: {**schema, "properties": {**fields, name: part}})
            return SCHEMAS | changed | st.sampled_from([structure([], **fields), structure(sorted(fields), **fields)])
        case {"type": "integer" | "number" | "string", **limits}:
            key = min(limits)
            return SCHEMAS | SMALL.map(lambda limit: {**schema, key: max(limit, 0)})
    return SCHEMAS
