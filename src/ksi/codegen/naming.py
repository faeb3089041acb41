"""Names of types in descriptions: those of an event's own come from its name, and stay whatever else is loaded."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

RESERVED = frozenset(
    # What the descriptions name themselves, or take from TypeScript and Python.
    {
        "Problem", "Failure", "Receipt", "Frame", "Cancel", "Credit", "Gap", "Opening",
        "AbortSignal", "Array", "AsyncIterable", "Promise",
        "Any", "AsyncIterator", "BaseException", "EventClient", "Literal", "NotRequired", "Options", "Protocol", "Self",
        "TracebackType", "TypeAlias", "TypedDict", "TypeVar", "Unpack", "False", "None", "True",
    }
)  # fmt: skip
_OWN = re.compile(r"Ksi")


def stems_of(event_names: Iterable[str]) -> dict[str, str]:
    """``state:set`` → ``StateSet``, unambiguously: names that would look the same get a part of their digest."""
    stems = {name: pascal(name) for name in event_names}
    times = Counter(stems.values())
    return {name: stem if times[stem] == 1 else f"{stem}_{digest(name)}" for name, stem in stems.items()}


def pascal(name: str) -> str:
    """``state:set_value`` → ``StateSetValue``. It may be no identifier, but only where there is no letter in front."""
    words = re.split(r"[^0-9A-Za-z]+", name)
    joined = "".join(word[:1].upper() + word[1:] for word in words)
    return joined if joined[:1].isalpha() else f"X{joined}"


def identifier(name: str) -> str:
    """``G[int]`` → ``G_int``. A capital in front keeps it apart from the words of Python and TypeScript."""
    cleaned = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_")
    return f"{cleaned[0].upper()}{cleaned[1:]}" if cleaned[:1].isalpha() else f"X{cleaned}"


def is_free(name: str) -> bool:
    """Whether the generated code has no use of its own for ``name``."""
    return name not in RESERVED and not _OWN.match(name)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:6]
