"""Which recorded request is the same as one that came: by what it says, and how often that was said before.

Never by the order of arrival, which differs from run to run where several are under way at once. Headers do not count,
nor the order of keys in a JSON body, nor what a path to be ignored leads to.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ksi.core import canonical
from ksi.core.errors import ValidationError
from ksi.plugins.door.shapes import Asked
from ksi.store.structure import Path, parse_path

EACH = "[*]"
Ignored = Sequence[Sequence[Path]]
"""Paths to be left out; each in the parts between its ``[*]``."""


class Recorded(msgspec.Struct, frozen=True):
    """A request that the log holds."""

    id: bytes
    position: int
    asked: Asked


def parse_ignored(paths: Iterable[str]) -> Ignored:
    """``$.metadata.time``, ``$.messages[*].id``. Raises ValidationError."""
    return [_parts(text) for text in paths]


def _parts(text: str) -> Sequence[Path]:
    below = text.removeprefix("$")
    if not below:
        raise ValidationError("$ is all of a request: name a part of it, as in $.metadata.time")
    return [parse_path(part.removeprefix(".")) if part else () for part in below.split(EACH)]


def key_of(asked: Asked, ignored: Ignored) -> bytes:
    """The same for requests that say the same."""
    body = asked.json()
    for parts in ignored:
        _drop(body, parts)
    said = asked.body.text if body is None else body
    return canonical.encode([asked.protocol, asked.method, asked.is_beside, asked.path, asked.query, said])


def _drop(value: Any, parts: Sequence[Path]) -> None:
    first, *rest = parts
    steps = first if rest else first[:-1]
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return
    if rest:
        for each in value if isinstance(value, list) else ():
            _drop(each, rest)
    elif first and isinstance(value, dict):
        value.pop(first[-1], None)


class Memory:
    """The requests of a run that were not asked for again yet."""

    def __init__(self, calls: Iterable[Recorded], ignored: Ignored) -> None:
        self._ignored = ignored
        self._left: defaultdict[bytes, deque[Recorded]] = defaultdict(deque)
        for call in calls:
            self._left[key_of(call.asked, ignored)].append(call)

    def take(self, asked: Asked) -> Recorded | None:
        """The first that says the same."""
        calls = self._left.get(key_of(asked, self._ignored))
        return calls.popleft() if calls else None

    def left(self) -> list[Recorded]:
        """In the order in which they were recorded."""
        return sorted((call for calls in self._left.values() for call in calls), key=lambda call: call.position)

    def nearest(self, asked: Asked) -> Recorded | None:
        """Of those that are left the one that begins and ends most like ``asked``."""
        wanted = key_of(asked, self._ignored)
        return max(self.left(), key=lambda call: _likeness(key_of(call.asked, self._ignored), wanted), default=None)


def _likeness(one: bytes, other: bytes) -> int:
    """How many bytes of both are the same at their beginnings and ends."""
    return _beginning(one, other) + _beginning(one[::-1], other[::-1])


def _beginning(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))
