"""Whether all that fits one JSON schema fits another one.

What can not be proven does not fit: a change is called breaking too often rather than too seldom. An object with fields
of its own has no others, whether its schema says so or not: so the daemon sends and takes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ksi.codegen.schemas import Schema, kinds_of, name_in, references

Schemas = Mapping[str, Schema]
Part = Schema | bool

_ANNOTATIONS = {"description", "default", "title", "examples", "$comment", "readOnly", "writeOnly", "deprecated"}
_EXACT = ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding", "contentMediaType", "propertyNames")
_OPAQUE = ("allOf", "not", "if", "then", "else", "contains", "patternProperties", "dependentSchemas")
_SMALLEST = ("minLength", "minItems", "minProperties")
_LARGEST = ("maxLength", "maxItems", "maxProperties")


class Misfit(msgspec.Struct, frozen=True):
    """A place where something fits the one and not the other; ``path`` as in ``messages[].role``."""

    path: str
    text: str


class Fitting:
    """Compares schemas of two catalogues.

    Args:
        inner: Definitions of the schema whose values must fit.
        outer: Definitions of the schema that they must fit.
        inner_is_old: How to say it: what was, and what is.
        is_lenient: Fields that the outer one does not know are passed over, as readers of answers do.
    """

    def __init__(self, inner: Schemas, outer: Schemas, *, inner_is_old: bool, is_lenient: bool = False) -> None:
        self._inner = inner
        self._outer = outer
        self._inner_is_old = inner_is_old
        self._is_lenient = is_lenient
        self._under_way: set[tuple[int, int]] = set()

    def misfits(self, inner: Part, outer: Part, path: str = "") -> list[Misfit]:
        """What keeps values of ``inner`` from fitting ``outer``; none: all of them fit."""
        inner, outer = _resolved(inner, self._inner), _resolved(outer, self._outer)
        pair = (id(inner), id(outer))
        if pair in self._under_way:  # a schema inside itself: what is to be found is found outside
            return []
        self._under_way.add(pair)
        try:
            return list(self._unfit(inner, outer, path))
        finally:
            self._under_way.discard(pair)

    def _unfit(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        if _says_nothing(outer) or _is_the_same(inner, outer):
            return
        wanted = list(_variants(outer, self._outer))
        for variant in _variants(inner, self._inner):
            alike = [other for other in wanted if _is_alike(variant, other)]
            if len(alike) == 1:
                yield from self._same_kind(variant, alike[0], path)
            elif all(self._found(variant, other, path) for other in alike):
                yield Misfit(path, self._was_is(inner, outer))
                return

    def _found(self, inner: Schema, outer: Schema, path: str) -> bool:
        return next(self._same_kind(inner, outer, path), None) is not None

    def _same_kind(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        if _says_nothing(outer):
            return
        if "const" in inner:
            if "const" not in outer and _asserted(outer) > {"type"}:
                yield Misfit(path, self._was_is(inner, outer))
            return
        yield from self._limits(inner, outer, path)
        match kinds_of(outer)[0]:
            case "object":
                yield from self._object(inner, outer, path)
            case "array":
                yield from self._array(inner, outer, path)

    def _limits(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        for key in (*_EXACT, *_OPAQUE):
            if key in outer and inner.get(key) != outer[key]:
                yield Misfit(path, self._changed(key, inner, outer))
        for key in _SMALLEST:
            if inner.get(key, 0) < outer.get(key, 0):
                yield Misfit(path, self._changed(key, inner, outer))
        for key in _LARGEST:
            if inner.get(key, math.inf) > outer.get(key, math.inf) and not _has_no_fields(outer):
                yield Misfit(path, self._changed(key, inner, outer))
        if _lowest(inner) < _lowest(outer):
            yield Misfit(path, self._changed("minimum", inner, outer))
        if _highest(inner) > _highest(outer):
            yield Misfit(path, self._changed("maximum", inner, outer))

    # ── objects ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _object(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        yield from self._required(inner, outer, path)
        ours, theirs = inner.get("properties", {}), outer.get("properties", {})
        beside = _beside(outer)
        for name, part in ours.items():
            place = f"{path}.{name}" if path else name
            if name in theirs or beside is not False:
                yield from self.misfits(part, theirs.get(name, beside), place)
            elif not self._is_lenient:
                yield Misfit(place, "is gone" if self._inner_is_old else "is new")
        yield from self._map(inner, outer, f"{path}.*" if path else "*")

    def _required(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        for name in outer.get("required", ()):
            if name not in inner.get("required", ()):
                place = f"{path}.{name}" if path else name
                is_gone = not self._inner_is_old and name not in inner.get("properties", {})
                missing = "is gone" if is_gone else "may be missing"
                yield Misfit(place, "is required" if self._inner_is_old else missing)

    def _map(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        """Fields of any name."""
        given, taken = _beside(inner), _beside(outer)
        if given is False:
            return
        if taken is False and not self._is_lenient:
            yield Misfit(path, self._was_is(inner, outer))
            return
        unnamed = set(outer.get("properties", {})) - set(inner.get("properties", {}))
        for part in ([] if taken is False else [taken]) + [outer["properties"][name] for name in sorted(unnamed)]:
            yield from self.misfits(given, part, path)

    # ── arrays ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _array(self, inner: Schema, outer: Schema, path: str) -> Iterator[Misfit]:
        ours, theirs = inner.get("prefixItems", ()), outer.get("prefixItems", ())
        if len(ours) != len(theirs):
            yield Misfit(path, self._was_is(inner, outer))
            return
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from self.misfits(one, other, f"{path}[{number}]")
        if inner.get("maxItems", math.inf) > len(ours):
            yield from self.misfits(inner.get("items", True), outer.get("items", True), f"{path}[]")

    # ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _was_is(self, inner: Schema, outer: Schema) -> str:
        one, other = _words(inner), _words(outer)
        return f"was {one}, is {other}" if self._inner_is_old else f"was {other}, is {one}"

    def _changed(self, key: str, inner: Schema, outer: Schema) -> str:
        one, other = _limit(inner, key), _limit(outer, key)
        return f"{key} was {one}, is {other}" if self._inner_is_old else f"{key} was {other}, is {one}"


def _resolved(part: Part, schemas: Schemas) -> Schema:
    if isinstance(part, bool):
        return _ANYTHING if part else _NOTHING
    while "$ref" in part:
        part = schemas[name_in(part["$ref"])]
    return part


_ANYTHING: Schema = {}
_NOTHING: Schema = {"anyOf": []}


def _variants(schema: Schema, schemas: Schemas) -> Iterator[Schema]:
    """The alternatives of ``schema``, each of one type, or one value."""
    schema = _resolved(schema, schemas)
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives is not None:
        for alternative in alternatives:
            yield from _variants(_resolved(alternative, schemas), schemas)
    elif "const" in schema or "enum" in schema:
        yield from ({"const": value} for value in schema.get("enum", [schema.get("const")]))
    elif len(kinds_of(schema)) > 1:
        yield from ({**schema, "type": kind} for kind in kinds_of(schema))
    else:
        yield schema


def _is_alike(inner: Schema, outer: Schema) -> bool:
    """Whether they may fit: they have the same type, or the same value."""
    if _says_nothing(outer):
        return True
    if "const" in outer:
        return "const" in inner and _same(inner["const"], outer["const"])
    if "const" not in inner and not kinds_of(inner):
        return False
    kind = _kind_of(inner["const"]) if "const" in inner else kinds_of(inner)[0]
    return kinds_of(outer)[:1] in ((kind,), [kind]) or (kind == "integer" and tuple(kinds_of(outer)) == ("number",))


def _is_the_same(one: Schema, other: Schema) -> bool:
    """Word for word, and neither refers to anything. As JSON, for to Python 1 and true are equal."""
    return not references(one) and _json(one) == _json(other)


def _says_nothing(schema: Schema) -> bool:
    return not _asserted(schema)


def _asserted(schema: Schema) -> set[str]:
    return schema.keys() - _ANNOTATIONS


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def _beside(schema: Schema) -> Part:
    """What fields fit that are not named; an object without any named ones is a map."""
    if _has_no_fields(schema):
        return False
    given: Part | None = schema.get("additionalProperties")
    return given if given is not None else not schema.get("properties")


def _has_no_fields(schema: Schema) -> bool:
    return schema.get("maxProperties") == 0


def _lowest(schema: Schema) -> tuple[float, int]:
    """The least number that fits; 1 beside it where the number itself does not."""
    return max((schema.get("minimum", -math.inf), 0), (schema.get("exclusiveMinimum", -math.inf), 1))


def _highest(schema: Schema) -> tuple[float, int]:
    return min((schema.get("maximum", math.inf), 0), (schema.get("exclusiveMaximum", math.inf), -1))


def _words(schema: Schema) -> str:
    """``integer``, ``"a" | "b" | null``, ``Usage``."""
    match schema:
        case {"$ref": reference}:
            return name_in(reference)
        case {"const": value}:
            return _json(value)
        case {"enum": values}:
            return " | ".join(map(_json, values))
        case {"anyOf": parts} | {"oneOf": parts}:
            return " | ".join(map(_words, parts))
    return " | ".join(kinds_of(schema)) or "anything"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _limit(schema: Schema, key: str) -> str:
    exclusive = f"exclusive{key.capitalize()}"
    return f"{schema[exclusive]} (excluded)" if exclusive in schema else str(schema.get(key, "not limited"))
