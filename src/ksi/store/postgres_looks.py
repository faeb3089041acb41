"""A log that others write to: units that are decided again, and looks at what others have written."""

from __future__ import annotations

from collections.abc import Callable

from ksi.core.errors import (
    AppendConditionError,
    CheckpointConflictError,
    EventIdConflictError,
    KSIError,
    UnavailableError,
    ValidationError,
    WrongExpectedVersionError,
)
from ksi.core.ports import Committed, Done, Unit


class OvertakenError(UnavailableError):
    """Others wrote first, so this was not stored. It is tried again by who gets it; nobody else does."""

    def __init__(self) -> None:
        super().__init__("the log", "others wrote first")


_REFUSALS = (
    AppendConditionError,
    CheckpointConflictError,
    EventIdConflictError,
    ValidationError,
    WrongExpectedVersionError,
)


class Told:
    """The end of a unit of a log that others write to: until then it can be decided again.

    ``look``: it was refused, and waits for what that look shows; 0: none.
    """

    __slots__ = ("_doubt", "done", "look", "unit")

    def __init__(self, doubt: Callable[[Told, KSIError], None], unit: Unit, done: Done) -> None:
        self._doubt = doubt
        self.unit = unit
        self.done = done
        self.look = 0

    def __call__(self, committed: Committed | None, error: KSIError | None) -> None:
        if isinstance(error, _REFUSALS):
            self._doubt(self, error)
        else:
            self.done(committed, error)


class Looks:
    """Looks at what is in the database: numbered as they are asked for, one at a time, each answers all before it."""

    def __init__(self) -> None:
        self._asked = self._begun = self._answered = 0

    def ask(self) -> int:
        """The number of a look that begins after now."""
        self._asked += 1
        return self._asked

    @property
    def is_due(self) -> bool:
        return self._asked > self._answered

    def begin(self) -> None:
        self._begun = self._asked

    def end(self, *, complete: bool) -> None:
        if complete:
            self._answered = self._begun

    def is_answered(self, look: int) -> bool:
        return look <= self._answered
