"""A fold on its way through the log: from the nearest snapshot on, leaving others for those who come later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from ksi.core.events import Position, Query
from ksi.core.ports import EventLog
from ksi.core.views import FoldKey, Snapshot

S = TypeVar("S")
EVERY = 128
"""Events between two snapshots, at least: reading so many takes about a millisecond."""
BYTES_EACH = 64
"""Bytes of snapshots that each event may cost: large states are kept less often."""
BATCH = 256
"""Snapshots that are written together."""


class Applied(Protocol[S]):
    """The part that both kinds of folds have."""

    def initial(self) -> S: ...
    def apply(self, state: S, event: Any) -> S: ...


class Folding(Generic[S]):
    """One pass. ``name`` and the fold's version are the key of its snapshots; a fold without ``dump`` has none."""

    def __init__(self, log: EventLog, fold: Applied[S], name: str, query: Query, branch: str) -> None:
        self._log = log
        self._fold = fold
        self._query = query
        self._key = FoldKey(name, getattr(fold, "version", 1), branch)
        self._keeps = hasattr(fold, "dump") and hasattr(fold, "load")
        self._snapshots = log.snapshots  # those of now: an erasure ends them
        self._made: list[Snapshot] = []
        self._next = EVERY
        self.state = fold.initial()
        self.position = Position(0)
        """Of the last event that counts; 0 where there is none."""

    async def to(self, end: Position | None) -> None:
        """Fold all up to ``end``; to the head where nothing is said."""
        end = await self._log.head() or Position(0) if end is None else end
        self._begin(end)
        events = self._log.read_all(self._query, after=self.position, until=end, branch=self._key.branch)
        since = 0
        async for event in events:
            if event.is_erased:
                continue
            self.state, self.position = self._fold.apply(self.state, event), event.position
            since += 1
            if self._keeps and since >= self._next:
                since = 0
                self._keep()
        self._hand_over()

    def keep(self) -> None:
        """Leave a snapshot of where it stands, if its fold has any."""
        if self._keeps and self.position:
            self._keep()
            self._hand_over()

    async def wrong_snapshots(self) -> list[Position]:
        """Those that are not what the fold makes of the events today: each is built again from the first event."""
        kept = {one.position: one.state for one in self._kept(await self._log.head() or Position(0))}
        wrong = []
        async for event in self._log.read_all(
            self._query, until=max(kept, default=Position(0)), branch=self._key.branch
        ):
            if event.is_erased:
                continue
            self.state = self._fold.apply(self.state, event)
            raw = kept.pop(event.position, None)
            if raw is not None and self._fold.dump(self.state) != raw:  # type: ignore[attr-defined]  # it has snapshots
                wrong.append(event.position)
        return sorted([*wrong, *kept])

    def _kept(self, end: Position) -> Iterator[Snapshot]:
        """Its snapshots, the newest first."""
        while self._keeps and (found := self._snapshots.before(self._key, end)) is not None:
            yield found
            end = Position(found.position - 1)

    def _begin(self, end: Position) -> None:
        found = self._snapshots.before(self._key, end) if self._keeps else None
        if found is not None:
            self.state = self._fold.load(found.state)  # type: ignore[attr-defined]  # it was looked for
            self.position = found.position
            self._next = _distance(found.state)

    def _keep(self) -> None:
        raw: bytes = self._fold.dump(self.state)  # type: ignore[attr-defined]  # the same
        self._next = _distance(raw)
        self._made.append(Snapshot(self.position, raw))
        if len(self._made) >= BATCH:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._made:
            self._snapshots.keep(self._key, self._made)
            self._made = []


def _distance(state: bytes) -> int:
    return max(EVERY, len(state) // BYTES_EACH)
