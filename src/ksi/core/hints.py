"""Type hints: what a value of a type may hold.

pydantic is not imported here: a model is known by what it carries, so whoever has none never pays for it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec


def is_struct(hint: Any) -> bool:
    """Whether ``hint`` is a msgspec struct."""
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def is_model(hint: Any) -> bool:
    """Whether ``hint`` is a pydantic model."""
    return isinstance(hint, type) and hasattr(hint, "__pydantic_validator__") and hasattr(hint, "model_json_schema")


def parts_of(hint: Any) -> set[Any]:
    """``hint`` and every type inside it."""
    return set(_parts(hint, set()))


def fields_of(hint: Any) -> Mapping[str, Any]:
    """Types of the fields of a struct or model, by name; of anything else none."""
    if is_struct(hint):
        return {field.name: field.type for field in msgspec.structs.fields(hint)}
    return {name: field.annotation for name, field in hint.model_fields.items()} if is_model(hint) else {}


def bare(hint: Any) -> Any:
    """``hint`` without its annotations."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _parts(hint: Any, seen: set[Any]) -> Iterator[Any]:
    hint = bare(hint)
    if isinstance(hint, types.GenericAlias | types.UnionType) or get_origin(hint) is not None:
        yield get_origin(hint)
        for argument in get_args(hint):
            yield from _parts(argument, seen)
        return
    if not isinstance(hint, typing.Hashable) or hint in seen:
        return
    seen.add(hint)
    yield hint
    for inner in fields_of(hint).values():
        yield from _parts(inner, seen)
