"""One encoding of JSON, and the only one that is stored and hashed.

UTF-8, no spaces, keys of mappings sorted, fields of structs in declared order. What JSON can not say exactly is
refused: NaN, infinities, lone surrogates, nesting deeper than :data:`DEPTH_MAX`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from ksi.core.errors import ValidationError
from ksi.core.hints import bare, fields_of, parts_of

DEPTH_MAX = 64
_UNORDERED = (Any, object, dict, Mapping, set, frozenset, msgspec.Raw)
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()


def encode(value: Any) -> bytes:
    """``value`` (builtins, structs, dataclasses, dates, UUIDs, …) as canonical JSON.

    Raises:
        ValidationError: It has no exact JSON form.
    """
    try:
        compiled = _compiled.get(value.__class__)
        if compiled is not None:
            return compiled(value)
        return _compile(value.__class__)(value) if isinstance(value, msgspec.Struct) else _encode_anything(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValidationError(f"not JSON: {error}") from None


def _encode_anything(value: Any) -> bytes:
    raw = _encoder.encode(value)
    if b"null" in raw:  # msgspec writes NaN as null; looked at only where a null came out
        refuse_inexact(value)
    return raw


_compiled: dict[type, Callable[[Any], bytes]] = {}
COMPILED_MAX = 4_096


def _compile(kind: type) -> Callable[[Any], bytes]:
    """The encoder of a struct, from now on."""
    if len(_compiled) >= COMPILED_MAX:  # classes of plugins that were reloaded
        _compiled.clear()
    compiled = _compiled[kind] = encoder_for(kind)
    return compiled


def encoder_for(hint: Any) -> Callable[[Any], bytes]:
    """The cheapest encoder that gives canonical JSON of structs of this type. Raises also what msgspec raises."""
    plain, float_of = fast_encoder_for(hint)
    if float_of is None:
        return plain
    isfinite = math.isfinite

    def encode_exact(value: Any) -> bytes:
        if not isfinite(float_of(value)):
            refuse_inexact(value)
        return plain(value)

    return encode_exact


def fast_encoder_for(hint: Any) -> tuple[Callable[[Any], bytes], Callable[[Any], float] | None]:
    """An encoder of structs of this type, and what must be finite before it is called: a float of the value, or None.

    Structs write their fields in order by themselves: what needs care is mappings, sets, and floats that may be NaN,
    which msgspec writes as null. To look at one float costs less than to look for a null; where there are more of
    them, or deeper ones, the encoder looks by itself.
    """
    parts = parts_of(hint)
    if not is_ordered(parts):
        return _encode_anything, None
    plain = msgspec.json.Encoder().encode
    if float not in parts:
        return plain, None
    float_of = only_float_of(hint)
    return (_encode_anything, None) if float_of is None else (plain, float_of)


def only_float_of(hint: Any) -> Callable[[Any], float] | None:
    """The one float of a struct or model; None where there is none, or more, or it stands deeper."""
    fields = {name: bare(field) for name, field in fields_of(hint).items()}
    floats = [name for name, field in fields.items() if float in parts_of(field)]
    return attrgetter(floats[0]) if len(floats) == 1 and fields[floats[0]] is float else None


def is_ordered(parts: Collection[Any]) -> bool:
    """Whether values made of these types have one order by themselves: no mappings, no sets."""
    return not any(part in _UNORDERED for part in parts)


def decode(raw: bytes | memoryview) -> Any:
    """Builtins from JSON.

    Raises:
        ValidationError: It is not JSON.
    """
    try:
        return _decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"not JSON: {error}") from None


def digest(raw: bytes) -> bytes:
    """The 16 bytes that stand for ``raw``."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def refuse_inexact(value: Any) -> None:
    """Raise ValidationError where ``value`` holds a NaN or an infinity."""
    match value:
        case float() if not math.isfinite(value):
            raise ValidationError(f"not JSON: {value}")
        case dict():
            for item in value.values():
                refuse_inexact(item)
        case list() | tuple() | set() | frozenset():
            for item in value:
                refuse_inexact(item)
        case msgspec.Struct():
            for name in value.__struct_fields__:
                refuse_inexact(getattr(value, name))
        case _ if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                refuse_inexact(getattr(value, field.name))


def refuse_depth(raw: bytes) -> None:
    """Raise ValidationError where ``raw`` nests deeper than :data:`DEPTH_MAX`: a decoder's stack is finite.

    All of it runs in C: a payload may hold half a million brackets, and the loop waits for this.
    """
    if raw.count(b"{") + raw.count(b"[") <= DEPTH_MAX:
        return
    steps = _STRINGS.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)
    if max(accumulate(memoryview(steps).cast("b")), default=0) > DEPTH_MAX:
        raise ValidationError(f"nested deeper than {DEPTH_MAX}")


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{[}]"))
