"""Types of payloads and answers: decoders, encoders and JSON schemas from type hints.

msgspec structs and pydantic models are both first-class, both strict, and both refuse unknown fields.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import DeclarationError, ValidationError
from ksi.core.hints import is_model, is_struct, parts_of
from ksi.kernel.codec import Codec
from ksi.kernel.models import model_codec, models_codec


def payload_codec(hint: Any, *, where: str) -> Codec:
    """The codec of a request: its type must be an object and refuse unknown fields."""
    if is_model(hint):
        return model_codec(hint)
    if not is_struct(hint):
        raise DeclarationError(f"a payload is a msgspec struct or a pydantic model, not {hint!r}", where=where)
    for part in parts_of(hint):
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
        return model_codec(hint)
    if hint is None or hint is type(None):
        return Codec(None, canonical.decode, lambda value: b"{}", lambda: {"type": "object", "maxProperties": 0})
    if any(is_model(part) for part in parts_of(hint)):
        return models_codec(hint)
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
    encode, isfinite = canonical.encoder_for(hint), math.isfinite
    plain, float_of = canonical.fast_encoder_for(hint)

    def encode_struct(value: Any) -> bytes:
        if value.__class__ is hint and (float_of is None or isfinite(float_of(value))):  # nearly always
            return plain(value)
        return encode(value if isinstance(value, hint) else msgspec.convert(value, hint))

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
