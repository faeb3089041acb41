"""Partition keys and slots: who may run now, who waits, and who would wait for ever.

A key is held by one holder at a time. A holder lends its key to the requests that it awaits itself; siblings that are
awaited together take turns. A nested request that would close a circle of waiting is refused before it waits. Waiting
is bounded and ordered by priority with aging: one point of priority is worth :data:`AGING` places in the queue, so
that nobody is overtaken for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from ksi.core.errors import OverloadedError, PartitionDeadlockError

AGING = 64


class Holder(Protocol):
    """Whoever can hold a key."""

    @property
    def parent(self) -> Holder | None:
        """The one that awaits it and lends it what it holds; None at the root."""

    @property
    def above(self) -> Holder | None:
        """The one that waits for its end: ``parent``, or the holder that its frame names as its cause."""

    @property
    def rank(self) -> int:
        """Its priority: higher goes first."""


class _Key:
    __slots__ = ("capacity", "holders", "queue")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.holders: list[Holder] = []  # borrowers behind their lenders
        self.queue: list[tuple[int, int, Holder, Callable[[], None]]] = []

    def is_free_for(self, holder: Holder) -> bool:
        if len(self.holders) < self.capacity:
            return True
        return self.capacity == 1 and any(lender is self.holders[-1] for lender in lenders(holder))


class Keys:
    """All keys of a router. ``queued_max`` bounds the waiting for each key."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._waiting: dict[Holder, str] = {}
        self._order = count()

    def acquire(
        self, name: str, holder: Holder, begin: Callable[[], None], *, capacity: int = 1, queued_max: int = 1024
    ) -> None:
        """Call ``begin`` once ``holder`` has the key: now, or when it is its turn.

        Raises:
            OverloadedError: ``queued_max`` wait already.
            PartitionDeadlockError: The holder of the key waits, through others, for ``holder`` or one who awaits it.
        """
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = _Key(capacity)
        if key.is_free_for(holder):
            key.holders.append(holder)
            begin()
            return
        if len(key.queue) >= queued_max:
            raise OverloadedError(f"the queue of {name!r}", limit=queued_max)
        if holder.above is not None and (cycle := self._cycle(name, holder)):
            raise PartitionDeadlockError(name, cycle)
        self._waiting[holder] = name
        heapq.heappush(key.queue, (next(self._order) - holder.rank * AGING, next(self._order), holder, begin))

    def release(self, name: str, holder: Holder) -> None:
        """Give the key back; the next in the queue begins."""
        key = self._keys[name]
        key.holders.remove(holder)
        while (entry := self._next(key)) is not None:
            _, _, waiter, begin = entry
            del self._waiting[waiter]
            key.holders.append(waiter)
            begin()
            if len(key.holders) >= key.capacity:
                break
        if not key.holders and not key.queue:
            self._keys.pop(name, None)

    def forget(self, name: str, holder: Holder) -> bool:
        """Stop waiting. False: it does not wait (any more)."""
        if self._waiting.pop(holder, None) is None:
            return False
        key = self._keys[name]
        key.queue = [entry for entry in key.queue if entry[2] is not holder]
        heapq.heapify(key.queue)
        return True

    def holds(self, name: str) -> tuple[int, int]:
        """How many hold the key and how many wait for it."""
        key = self._keys.get(name)
        return (0, 0) if key is None else (len(key.holders), len(key.queue))

    def _next(self, key: _Key) -> tuple[int, int, Holder, Callable[[], None]] | None:
        """The best of those who may have the key now, taken out of the queue."""
        if not key.queue:
            return None
        if not key.holders or key.capacity > 1:
            return heapq.heappop(key.queue) if len(key.holders) < key.capacity else None
        borrowers = [entry for entry in key.queue if key.is_free_for(entry[2])]
        if not borrowers:
            return None
        best = min(borrowers)
        key.queue.remove(best)
        heapq.heapify(key.queue)
        return best

    def _cycle(self, name: str, holder: Holder) -> list[str]:
        """The keys of the circle that waiting for ``name`` would close; empty where there is none."""
        family = {holder, *ancestors(holder)}
        trail: list[tuple[str, list[str]]] = [(name, [name])]
        seen = {name}
        while trail:
            wanted, path = trail.pop()
            for owner in self._keys[wanted].holders:
                if owner in family and wanted != name:
                    return path
                for blocked in self._blocked_below(owner):
                    if blocked not in seen:
                        seen.add(blocked)
                        trail.append((blocked, [*path, blocked]))
        return []

    def _blocked_below(self, owner: Holder) -> Iterator[str]:
        """Keys that ``owner``, or one whom it awaits, waits for."""
        for waiter, wanted in self._waiting.items():
            if waiter is owner or owner in set(ancestors(waiter)):
                yield wanted


def lenders(holder: Holder) -> Iterator[Holder]:
    """Those whose keys ``holder`` may borrow, nearest first."""
    parent = holder.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def ancestors(holder: Holder) -> Iterator[Holder]:
    """Those who wait for the end of ``holder``, nearest first."""
    above = holder.above
    while above is not None:
        yield above
        above = above.above
