"""Codecs of pydantic models.

pydantic is not imported here: a model is known by what it carries, so a daemon without such plugins never pays for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Union, cast

import msgspec

from ksi.core import canonical
from ksi.core.hints import fields_of, is_model, parts_of
from ksi.kernel.codec import Codec


def model_codec(hint: Any) -> Codec:
    """Of a model."""
    codec = _codec(hint, hint.__pydantic_validator__, hint.__pydantic_serializer__, hint.model_json_schema)
    return _plain(codec) if _is_plain(hint) else codec


def models_codec(hint: Any) -> Codec:
    """Of a type that has models inside."""
    from pydantic import TypeAdapter  # loaded already: it made the models; a daemon without any never pays for it

    adapter: Any = TypeAdapter(hint)
    return _codec(hint, adapter.validator, adapter.serializer, adapter.json_schema)


def _codec(hint: Any, validator: Any, serializer: Any, schema: Callable[[], dict[str, Any]]) -> Codec:
    validate_json, to_json, to_python = validator.validate_json, serializer.to_json, serializer.to_python
    is_one, parts = is_model(hint), parts_of(hint)
    is_loose, has_floats = not canonical.is_ordered(parts), float in parts

    def decode(raw: bytes) -> Any:
        return validate_json(raw, strict=True, extra="forbid")

    def encode(value: Any) -> bytes:
        if not is_one or not isinstance(value, hint):
            value = validator.validate_python(value)
        if is_loose:
            return canonical.encode(to_python(value, mode="json"))
        raw = cast(bytes, to_json(value))
        if has_floats and b"null" in raw:  # pydantic reads NaN, and writes it as null
            canonical.refuse_inexact(to_python(value))
        return raw

    return Codec(hint, decode, encode, schema)


# ── models of plain fields ───────────────────────────────────────────────────────────────────────────────────────────
_PLAIN = {str, int, float, bool, NoneType, list, tuple, Union, UnionType}
"""Types that both libraries write in the same way, in the order of the fields."""


def _is_plain(model: Any) -> bool:
    """Whether JSON of the model's fields as they are is all that pydantic would write."""
    decorators = model.__pydantic_decorators__
    config, fields = model.model_config, model.model_fields.values()
    return not (
        decorators.field_serializers
        or decorators.model_serializers
        or decorators.computed_fields
        or config.get("json_encoders")
        or config.get("extra") == "allow"
        or model.__pydantic_root_model__
        or any(field.alias or field.serialization_alias or field.exclude for field in fields)
        or any(hasattr(mark, "__get_pydantic_core_schema__") for field in fields for mark in field.metadata)
        or any(isinstance(member, cached_property) for kind in model.__mro__ for member in vars(kind).values())
        or not set().union(*(parts_of(field) for field in fields_of(model).values())) <= _PLAIN
    )


def _plain(codec: Codec) -> Codec:
    """The same codec with msgspec's encoder, at half the cost of the serializer."""
    hint, careful = codec.hint, codec.encode
    encode, isfinite = msgspec.json.Encoder().encode, math.isfinite
    has_floats, float_of = float in parts_of(hint), canonical.only_float_of(hint)
    if has_floats and float_of is None:
        return codec

    def encode_plain(value: Any) -> bytes:
        if value.__class__ is hint and (float_of is None or isfinite(float_of(value))):  # nearly always
            return encode(value.__dict__)
        return careful(value)

    return Codec(hint, codec.decode, encode_plain, codec.schema)
