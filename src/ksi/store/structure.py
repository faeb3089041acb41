"""States as trees of values: the way to a value in one, and what differs between two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from ksi.core.errors import ValidationError

Path = tuple[str | int, ...]
"""Names of fields, keys and places in lists; a negative place counts from the end."""
STEPS = r"""(?:\.?[A-Za-z_][\w-]*|\.\d+|\[-?\d+\]|\["(?:[^"\\]|\\.)*"\])"""
_STEP = re.compile(
    r"""\.?(?P<name>[A-Za-z_][\w-]*)|\.?(?P<place>\d+)|\[(?P<index>-?\d+)\]|\[(?P<key>"(?:[^"\\]|\\.)*")\]"""
)


class Missing:
    """The type of :data:`MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""What stands at a path that leads nowhere."""


class Difference(msgspec.Struct, frozen=True):
    """A value that is not the same in both states; ``before`` or ``after`` is left out where it was not there."""

    path: str
    before: Any | UnsetType = UNSET
    after: Any | UnsetType = UNSET


def parse_path(text: str) -> Path:
    """``messages.3``, ``messages[-1].text``, ``values["a key"]``.

    Raises:
        ValidationError: It is no path.
    """
    steps: list[str | int] = []
    end = 0
    while end < len(text):
        match = _STEP.match(text, end)
        if match is None:
            break
        steps.append(_step(match))
        end = match.end()
    if not steps or end < len(text):
        raise ValidationError(f'{text!r} is no path: write messages.3, messages[-1].text or values["a key"]')
    return tuple(steps)


def _step(match: re.Match[str]) -> str | int:
    match match.lastgroup, match[match.lastgroup or 0]:
        case "name", name:
            return name
        case "key", key:
            return msgspec.json.decode(key, type=str)
        case _, digits:
            return int(digits)


def value_at(state: Any, path: Path) -> Any:
    """The value at ``path`` in a state of structs, mappings and sequences; :data:`MISSING` where there is none."""
    for step in path:
        state = _below(state, step)
        if state is MISSING:
            break
    return state


def _below(value: Any, step: str | int) -> Any:
    match value:
        case Mapping():
            # Keys of JSON are texts, also those that look like numbers.
            return value.get(step, value.get(str(step), MISSING))
        case msgspec.Struct() if isinstance(step, str) and not step.startswith("_"):
            return getattr(value, step, MISSING)
        case Sequence() if isinstance(step, int) and not isinstance(value, str | bytes):
            return value[step] if -len(value) <= step < len(value) else MISSING
    return MISSING


def differences(before: Any, after: Any) -> list[Difference]:
    """What is not the same in two states, in the order of ``before``, then of what is new in ``after``."""
    return list(_differences(plain(before), plain(after), ""))


def plain(value: Any) -> Any:
    """As JSON has it."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return msgspec.json.decode(msgspec.json.encode(value))


def _differences(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if before == after and type(before) is type(after):
        return
    match before, after:
        case dict(), dict():
            for key in [*before, *(key for key in after if key not in before)]:
                yield from _differences(before.get(key, UNSET), after.get(key, UNSET), _named(path, key))
        case list(), list():
            for place in range(max(len(before), len(after))):
                was, now = (states[place] if place < len(states) else UNSET for states in (before, after))
                yield from _differences(was, now, f"{path}[{place}]")
        case _:
            yield Difference(path, before, after)


def _named(path: str, key: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w-]*", key):
        return f"{path}[{msgspec.json.encode(key).decode()}]"
    return f"{path}.{key}" if path else key
