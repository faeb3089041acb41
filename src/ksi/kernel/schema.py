"""Types of payloads and answers: decoders, encoders and JSON schemas from type hints.

msgspec structs and pydantic models are both first-class, both strict, and both refuse unknown fields. pydantic is not
imported here: a model is known by what it carries, so a daemon without such plugins never pays for it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec

from ksi.core import canonical
from ksi.core.errors import DeclarationError, ValidationError

_LOOSE = (Any, object, dict, Mapping, msgspec.Raw)


class Codec:
    """How values of one type enter and leave: ``decode`` takes JSON bytes, ``encode`` gives canonical JSON."""

    __slots__ = ("decode", "encode", "hint", "is_deep", "schema")

    def __init__(
        self,
        hint: Any,
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
        schema: Callable[[], dict[str, Any]],
    ) -> None:
        self.hint = hint
        self.decode = decode
        self.encode = encode
        self.schema = schema
        self.is_deep = any(part in _LOOSE for part in _parts(hint, set()))


def payload_codec(hint: Any, *, where: str) -> Codec:
    """The codec of a request: its type must be an object and refuse unknown fields."""
    if is_model(hint):
        return _model_codec(hint)
    if not is_struct(hint):
        raise DeclarationError(f"a payload is a msgspec struct or a pydantic model, not {hint!r}", where=where)
    for part in _parts(hint, set()):
        if is_model(part):
            raise DeclarationError(
                f"msgspec does not know the pydantic model {part.__name__}: take a model for the whole payload",
                where=where,
            )
        if is_struct(part) and not part.__struct_config__.forbid_unknown_fields:
            raise DeclarationError(
                f"{part.__name__} would drop unknown fields in silence: "
                f"write `class {part.__name__}(msgspec.Struct, forbid_unknown_fields=True)`",
                where=where,
            )
    return _struct_codec(hint)


def answer_codec(hint: Any, *, where: str) -> Codec:
    """The codec of an answer or a chunk: any type that has a JSON form. None stands for ``{}``."""
    if is_model(hint):
        return _model_codec(hint)
    if hint is None or hint is type(None):
        return Codec(None, canonical.decode, lambda value: b"{}", lambda: {"type": "object", "maxProperties": 0})
    if any(is_model(part) for part in _parts(hint, set())):
        return _models_codec(hint)
    try:
        return _struct_codec(hint) if is_struct(hint) else _value_codec(hint)
    except TypeError as error:
        raise DeclarationError(f"{hint!r} has no JSON form: {error}", where=where) from None


def parameters_codec(name: str, fields: list[tuple[str, Any, Any]], *, where: str) -> Codec:
    """The codec of plain arguments: a struct made of them. A field is (name, hint, default)."""
    members = [
        (field, hint, default) if default is not msgspec.NODEFAULT else (field, hint) for field, hint, default in fields
    ]
    try:
        struct = msgspec.defstruct(name, members, kw_only=True, forbid_unknown_fields=True, frozen=True)
        return payload_codec(struct, where=where)
    except TypeError as error:
        raise DeclarationError(str(error), where=where) from None


def is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def is_model(hint: Any) -> bool:
    """Whether ``hint`` is a pydantic model."""
    return isinstance(hint, type) and hasattr(hint, "__pydantic_validator__") and hasattr(hint, "model_json_schema")


def invalid(event_name: str, error: Exception) -> ValidationError:
    """What a decoder's own error means to the caller, with the place of each fault."""
    if isinstance(error, ValidationError):
        return error
    if hasattr(error, "errors"):  # pydantic
        faults = [
            {"path": ".".join(map(str, fault["loc"])), "message": fault["msg"]}
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        message = "; ".join(
            f"{fault['path']}: {fault['message']}" if fault["path"] else fault["message"] for fault in faults
        )
    else:
        text, _, path = str(error).partition(" - at `$")
        path = path.removesuffix("`").lstrip(".")
        faults = [{"path": path, "message": text}]
        message = f"{path}: {text}" if path else text
    return ValidationError(f"{event_name}: {message}", errors=faults, event_name=event_name)


def _struct_codec(hint: Any) -> Codec:
    decoder = msgspec.json.Decoder(hint)
    encode = canonical.encoder_for(set(_parts(hint, set())))

    def encode_struct(value: Any) -> bytes:
        if value.__class__ is hint or isinstance(value, hint):
            return encode(value)
        return encode(msgspec.convert(value, hint))

    return Codec(hint, decoder.decode, encode_struct, lambda: msgspec.json.schema(hint))


def _value_codec(hint: Any) -> Codec:
    decoder = msgspec.json.Decoder(hint)
    if hint in (Any, object):
        return Codec(hint, decoder.decode, _encode_anything, dict)
    return Codec(
        hint,
        decoder.decode,
        lambda value: canonical.encode(msgspec.convert(value, hint)),
        lambda: msgspec.json.schema(hint),
    )


def _encode_anything(value: Any) -> bytes:
    if value is None:
        raise TypeError("None is no answer")
    return canonical.encode(value)


def _model_codec(hint: Any) -> Codec:
    return _pydantic_codec(hint, hint.__pydantic_validator__, hint.__pydantic_serializer__, hint.model_json_schema)


def _models_codec(hint: Any) -> Codec:
    """Of a type that has models inside."""
    from pydantic import TypeAdapter  # loaded already: it made the models; a daemon without any never pays for it

    adapter: Any = TypeAdapter(hint)
    return _pydantic_codec(hint, adapter.validator, adapter.serializer, adapter.json_schema)


def _pydantic_codec(hint: Any, validator: Any, serializer: Any, schema: Callable[[], dict[str, Any]]) -> Codec:
    validate_json, to_json, to_python = validator.validate_json, serializer.to_json, serializer.to_python
    is_loose = not canonical.is_ordered(set(_parts(hint, set())))

    def decode(raw: bytes) -> Any:
        return validate_json(raw, strict=True, extra="forbid")

    def encode(value: Any) -> bytes:
        if not is_model(hint) or not isinstance(value, hint):
            value = validator.validate_python(value)
        if is_loose:
            return canonical.encode(to_python(value, mode="json"))
        raw = typing.cast(bytes, to_json(value))
        if b"null" in raw:  # pydantic reads NaN, and writes it as null
            canonical.refuse_inexact(to_python(value))
        return raw

    return Codec(hint, decode, encode, schema)


def _parts(hint: Any, seen: set[Any]) -> Iterator[Any]:
    """``hint`` and every type inside it."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if isinstance(hint, types.GenericAlias | types.UnionType) or get_origin(hint) is not None:
        yield get_origin(hint)
        for argument in get_args(hint):
            yield from _parts(argument, seen)
        return
    if not isinstance(hint, typing.Hashable) or hint in seen:
        return
    seen.add(hint)
    yield hint
    for inner in _field_types(hint):
        yield from _parts(inner, seen)


def _field_types(hint: Any) -> list[Any]:
    if is_struct(hint):
        return [field.type for field in msgspec.structs.fields(hint)]
    return [field.annotation for field in hint.model_fields.values()] if is_model(hint) else []
