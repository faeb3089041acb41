"""Event and entity patterns: ``agent:*``, ``agent:`` (the whole namespace), ``conversation/*``, ``*``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache


def expand(pattern: str) -> str:
    """``agent:`` means ``agent:*`` and ``conversation/`` means ``conversation/*``: no shell quoting needed."""
    return pattern + "*" if pattern.endswith((":", "/")) else pattern


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a name fits ``pattern``. ``*`` is any run of characters, ``?`` is one."""
    glob = expand(pattern)
    if "*" not in glob and "?" not in glob:
        return glob.__eq__
    if glob.endswith("*") and glob.count("*") == 1 and "?" not in glob:
        prefix = glob[:-1]
        return lambda name: name.startswith(prefix)
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in glob)
    fullmatch = re.compile("".join(parts), re.DOTALL).fullmatch
    return lambda name: fullmatch(name) is not None


def matches(pattern: str, name: str) -> bool:
    return matcher(pattern)(name)


def any_matches(patterns: Iterable[str], name: str) -> bool:
    return any(matcher(pattern)(name) for pattern in patterns)
