"""What can be seen from a branch: its own events, and those of its ancestors up to where it was cut off them.

Rows of all branches stand in one log. Keys of rows on a branch are marked with its name, so whoever reads ``main`` by
keys never meets them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ksi.core.events import MAIN, RecordedEvent

MARK = "\x1f"
"""Between the name of a branch and what is marked with it."""


class Sight:
    """The branches that are seen, each with the position up to which it is."""

    def __init__(self, cuts: Mapping[str, int]) -> None:
        self._cuts = cuts
        self._is_main = set(cuts) == {MAIN}

    def chosen(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """Those of ``events`` that are seen."""
        if self._is_main:
            return [event for event in events if event.branch == MAIN]
        cuts = self._cuts
        return [event for event in events if event.position <= cuts.get(event.branch, 0)]

    def keys(self, keys: list[str] | None) -> list[str] | None:
        """``keys`` as they are marked on each branch."""
        if keys is None or self._is_main:
            return keys
        found = [marked_key(key, branch) for branch in self._cuts for key in keys]
        # The rows of a run's or cause's own request are found through the index of ids, which knows no branches.
        return list(dict.fromkeys([*found, *(key for key in keys if key.startswith(("r:", "e:")))]))

    def names(self, names: Sequence[str]) -> list[str]:
        """``names`` without the marks of branches that are seen; those of others are left out."""
        return list(dict.fromkeys(bare for branch, bare in map(split, names) if branch in self._cuts))


MAIN_ONLY = Sight({MAIN: sys.maxsize})


def marked(name: str, branch: str) -> str:
    """``name`` as it is on ``branch``: streams and subscribers of branches are others than those of main."""
    return name if branch == MAIN else f"{branch}{MARK}{name}"


def marked_key(key: str, branch: str) -> str:
    return key if branch == MAIN else f"{key[:2]}{branch}{MARK}{key[2:]}"


def split(name: str) -> tuple[str, str]:
    """Branch and name of what :func:`marked` gave. A stream's own name may hold a mark too, but behind its category."""
    branch, mark, bare = name.partition(MARK)
    return (branch, bare) if mark and "/" not in branch else (MAIN, name)
