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
from typing import Any

import msgspec

from ksi.core.errors import ValidationError

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
        raw = _encoder.encode(value)
        if b"null" in raw:  # msgspec writes NaN as null; looked at only where a null came out
            refuse_inexact(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValidationError(f"not JSON: {error}") from None
    return raw


def encoder_for(parts: Collection[Any]) -> Callable[[Any], bytes]:
    """The cheapest encoder that gives canonical JSON of values made of these types only.

    Structs write their fields in order by themselves: what needs care is mappings, sets, and floats that may be NaN.
    """
    if not is_ordered(parts):
        return encode
    plain = msgspec.json.Encoder().encode
    if float not in parts:
        return plain

    def encode_exact(value: Any) -> bytes:
        raw = plain(value)
        if b"null" in raw:
            refuse_inexact(value)
        return raw

    return encode_exact


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
