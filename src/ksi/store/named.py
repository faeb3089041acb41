"""Which names of facts came lately: a subscriber that waits for others need not read the log at each commit."""

from __future__ import annotations

from ksi.store.query import Wanted
from ksi.store.row import Row

NAMES_MAX = 10_000


class NewestNames:
    """Where each name of a line was last seen; what was before ``start`` is not known."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, position: int) -> None:
        """Know nothing of what is there up to ``position``."""
        self._known_from = position
        self._last: dict[str, int] = {}
        self._came: set[str] | None = None

    def note(self, row: Row) -> None:
        """``row`` is acknowledged."""
        last = row.last
        if len(self._last) >= NAMES_MAX:
            self.start(last)
        for line in row.lines:
            self._last[line.name] = last
            if self._came is not None:
                self._came.add(line.name)

    def take_came(self) -> set[str] | None:
        """Names that were noted since this was asked before; None where there may have been others."""
        came, self._came = self._came, set()
        return came

    def has_nothing(self, wanted: Wanted, after: int) -> bool:
        """Whether it is certain that no event behind ``after`` is wanted."""
        if after < self._known_from or not wanted.is_named:
            return False
        return not any(last > after and wanted.may_be(name) for name, last in self._last.items())
