"""Whether what was recorded is what comes now, though fields with a default were added to its type since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import KSIError

Fill = Callable[[bytes], bytes]
"""Canonical JSON of a type, with the defaults of the fields that it lacks."""


def is_same(recorded: Any, came: Any, fill: Fill | None) -> bool:
    """A field that was absent then and has its default now is no difference; one that is absent now is."""
    if recorded == came:
        return True
    if fill is None or not _is_within(recorded, came):
        return False
    try:
        return bool(canonical.decode(fill(canonical.encode(recorded))) == came)
    except (KSIError, msgspec.MsgspecError, TypeError, ValueError):  # pydantic's is a ValueError
        return False


def _is_within(recorded: Any, came: Any) -> bool:
    """Each field of ``recorded`` is one of ``came``."""
    if isinstance(recorded, dict) and isinstance(came, dict):
        return all(name in came and _is_within(value, came[name]) for name, value in recorded.items())
    if isinstance(recorded, list) and isinstance(came, list):
        return len(recorded) == len(came) and all(map(_is_within, recorded, came))
    return True
