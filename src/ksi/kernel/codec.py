"""How values of one type enter and leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec

from ksi.core.hints import parts_of

_LOOSE = (Any, object, dict, Mapping, msgspec.Raw)


class Codec:
    """How values of one type enter and leave: ``decode`` takes JSON bytes, ``encode`` gives canonical JSON.

    ``schema`` gives its JSON schema, made when it is first asked for; it is not to be changed.
    """

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
        self.schema = cache(schema)
        self.is_deep = any(part in _LOOSE for part in parts_of(hint))
