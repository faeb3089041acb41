"""Acknowledgements: what a subscriber has done, in whatever order, and how its checkpoint follows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ksi.core.errors import KSIError, OverloadedError
from ksi.core.events import Position
from ksi.core.ports import Committed

ACK_DELAY = 0.1
"""Seconds that acknowledgements wait for a commit to join; then they get one of their own."""
UNACKED_MAX = 65_536
"""Events that a subscriber with a name may have been given and not have acknowledged."""


class Unacked:
    """The events that one subscriber was given and has not acknowledged, in order of position."""

    def __init__(self) -> None:
        self._given: deque[int] = deque()
        self._done: set[int] = set()

    def __len__(self) -> int:
        return len(self._given)

    def give(self, position: int) -> None:
        """Raises OverloadedError where too many are out already."""
        if len(self._given) >= UNACKED_MAX:
            raise OverloadedError("events that are not acknowledged", limit=UNACKED_MAX)
        self._given.append(position)

    def ack(self, position: int) -> None:
        """``position`` is done. One that was not given, or is done already, changes nothing."""
        if self._given and position >= self._given[0]:
            self._done.add(position)
            while self._given and self._given[0] in self._done:
                self._done.remove(self._given.popleft())

    def forget(self, position: int) -> None:
        """All up to ``position`` is done: a checkpoint says so."""
        while self._given and self._given[0] <= position:
            self._done.discard(self._given.popleft())

    def low_water(self, given: int) -> int:
        """All up to there is done; ``given`` is how far the subscriber has come."""
        return self._given[0] - 1 if self._given else given


class Acks:
    """Checkpoints that wait for the next commit. ``commit`` makes one, some time after the first of them came."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit
        self._due: dict[str, Position] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, subscriber: str, position: Position) -> None:
        if position > self._due.get(subscriber, 0):
            self._due[subscriber] = position
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(ACK_DELAY, self._late)

    def _late(self) -> None:
        self._timer = None
        self._commit()

    def take(self) -> dict[str, Position]:
        """All that wait; they are in a commit now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._due = self._due, {}
        return due

    def ended(self, subscriber: str, position: Position, _: Committed | None, error: KSIError | None) -> None:
        """The commit has ended. What it did not store joins a later one, when the log takes something again."""
        if error is not None and position > self._due.get(subscriber, 0):
            self._due[subscriber] = position

    def forget(self, subscriber: str) -> None:
        self._due.pop(subscriber, None)
