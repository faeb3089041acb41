"""Values of a view's key or index as bytes that sort like the values do, so that memory and SQLite keep one order.

Encodings are self-delimiting: joined ones sort by their parts, and a prefix of the parts is a prefix of the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from ksi.core.clock import microseconds
from ksi.core.errors import ValidationError

AFTER_ALL = b"\xff"
"""Appended to a prefix it is greater than all that begins with it: no tag is that large."""
_SIGN = 1 << 63


def sort_key(values: Iterable[Any]) -> bytes:
    """``values`` (None, bool, int of 64 bits, float, str, bytes, datetime, UUID, enum) as bytes.

    Raises:
        ValidationError: A value of another type, or an integer that is too large.
    """
    return b"".join(map(_encode, values))


def beginning_of(text: str) -> bytes:
    """What the bytes of every text begin with that begins with ``text``."""
    return sort_key((text,))[:-1] if text else b""


def _encode(value: Any) -> bytes:
    match value:
        case str():
            return b"\x30" + value.encode().replace(b"\0", b"\0\xff") + b"\0"
        case None:
            return b"\x00"
        case Enum():
            return _encode(value.value)
        case bool():
            return b"\x11" if value else b"\x10"
        case int() if -_SIGN <= value < _SIGN:
            return b"\x20" + (value + _SIGN).to_bytes(8, "big")
        case float():
            return b"\x21" + _float(value)
        case bytes():
            return b"\x31" + value.replace(b"\0", b"\0\xff") + b"\0"
        case datetime():
            return b"\x40" + (microseconds(value) + _SIGN).to_bytes(8, "big")
        case UUID():
            return b"\x50" + value.bytes
    raise ValidationError(f"{value!r} can not be part of a view's key or index")


def _float(value: float) -> bytes:
    # IEEE 754 sorts like an integer once the sign is turned: all bits of a negative number, the first of a positive.
    (bits,) = struct.unpack(">Q", struct.pack(">d", value))
    return int.to_bytes(bits ^ (2**64 - 1 if bits >> 63 else _SIGN), 8, "big")
