"""Event ids: 16 bytes, UUIDv7 where they are made new, UUIDv8 where they are derived.

Inside KSI an id is raw ``bytes``; at every public surface it is its text form. A derived id keeps the time prefix of
its source, so that indexes stay ordered in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from uuid import UUID

from uuid_utils import UUID as _UUID  # its text form costs half of the standard one
from uuid_utils import uuid7

from ksi.core.errors import ValidationError

IdSource = Callable[[], bytes]
ENTRIES_MAX = 31
_VARIANT = 0x80
_K = 1 << 123
_VERSION = 1 << 76
_PLACES = tuple([k * _K + _VERSION for k in range(ENTRIES_MAX + 1)])


def new_id() -> bytes:
    """A fresh UUIDv7, ordered in time."""
    return uuid7().bytes


def text(raw: bytes) -> str:
    """``raw`` in the usual form of 36 characters."""
    return str(_UUID(bytes=raw))


def parse(value: str | UUID | bytes) -> bytes:
    """The 16 bytes of an id in any of its forms.

    Raises:
        ValidationError: It is no UUID.
    """
    if isinstance(value, bytes) and len(value) == 16:
        return value
    try:
        return value.bytes if isinstance(value, UUID) else UUID(str(value)).bytes
    except ValueError:
        raise ValidationError(f"{value!r} is no event id: a UUID is needed") from None


def derived(source: bytes, *path: object) -> bytes:
    """The UUIDv8 that always comes out of ``source`` and ``path``: time prefix of the source, then a hash."""
    seed = source + "".join(f"{len(part)}:{part}" for part in map(str, path)).encode()
    digest = hashlib.blake2b(seed, digest_size=10).digest()
    return source[:6] + bytes([0x80 | (digest[0] & 0x0F), digest[1], _VARIANT | (digest[2] & 0x3F)]) + digest[3:]


def nth_of(base: bytes, k: int) -> bytes:
    """The id of the ``k``-th event (1..31) recorded in one row with the request ``base``; see :func:`base_of`.

    The top five bits of a UUIDv7 are zero until the year 2248: there ``k`` goes. Version nibble 8 when the base's is
    7, 9 when it is 8, so that the base comes back exactly. Needs :func:`has_room`.
    """
    return (int.from_bytes(base, "big") + _PLACES[k]).to_bytes(16, "big")


def base_of(raw: bytes) -> tuple[bytes, int] | None:
    """The request and ordinal that ``raw`` was derived from by :func:`nth_of`; None when it was not."""
    k = raw[0] >> 3
    if k == 0 or raw[6] >> 4 not in (8, 9):
        return None
    base = bytearray(raw)
    base[0] &= 0x07
    base[6] -= 0x10
    return bytes(base), k


def has_room(base: bytes) -> bool:
    """Whether :func:`nth_of` can derive from ``base``: a UUIDv7 or v8 whose time prefix leaves the top bits free."""
    return base[0] < 8 and base[6] >> 4 in (7, 8)
