"""Partition keys and slots: who may run now, who waits, and who would wait for ever.

A key is held by one holder at a time. A holder lends its key to the requests that it awaits itself; siblings that are
awaited together take turns. A nested request that would close a circle of waiting is refused before it waits. Waiting
is bounded and ordered by priority with aging: one point of priority is worth :data:`AGING` places in the queue, so
that nobody is overtaken for ever.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
        self._below: dict[Holder, dict[Holder, str]] = {}  # who waits for what: itself, or one whom it awaits
        self._order = count()
        self._ready: deque[Callable[[], None]] = deque()
        self._is_beginning = False

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
        if holder.above is not None and (cycle := _Search(self._keys, self._below, holder).way(holder, name)):
            raise PartitionDeadlockError(name, cycle)
        self._wait(name, holder)
        order = next(self._order)
        heapq.heappush(key.queue, (order - holder.rank * AGING, order, holder, begin))

    def release(self, name: str, holder: Holder) -> None:
        """Give the key back; the next in the queue begins."""
        key = self._keys[name]
        key.holders.remove(holder)
        while (entry := self._next(key)) is not None:
            _, _, waiter, begin = entry
            self._stop_waiting(waiter)
            key.holders.append(waiter)
            self._ready.append(begin)
            if len(key.holders) >= key.capacity:
                break  # nobody can borrow from one who has not begun
        if not key.holders:
            del self._keys[name]
        self._begin_ready()

    def forget(self, name: str, holder: Holder) -> bool:
        """Stop waiting. False: it does not wait (any more)."""
        if self._waiting.get(holder) != name:
            return False
        self._stop_waiting(holder)
        key = self._keys[name]
        key.queue = [entry for entry in key.queue if entry[2] is not holder]
        heapq.heapify(key.queue)
        return True

    def holds(self, name: str) -> tuple[int, int]:
        """How many hold the key and how many wait for it."""
        key = self._keys.get(name)
        return (0, 0) if key is None else (len(key.holders), len(key.queue))

    @property
    def waiting(self) -> int:
        """How many wait for a key."""
        return len(self._waiting)

    def _begin_ready(self) -> None:
        """One after another: who begins may release at once, and a long queue of such would be a deep recursion."""
        if self._is_beginning:
            return
        self._is_beginning = True
        try:
            while self._ready:
                self._ready.popleft()()
        finally:
            self._is_beginning = False

    def _wait(self, name: str, waiter: Holder) -> None:
        self._waiting[waiter] = name
        for above in (waiter, *ancestors(waiter)):
            self._below.setdefault(above, {})[waiter] = name

    def _stop_waiting(self, waiter: Holder) -> None:
        del self._waiting[waiter]
        for above in (waiter, *ancestors(waiter)):
            waiters = self._below[above]
            del waiters[waiter]
            if not waiters:
                del self._below[above]

    def _next(self, key: _Key) -> tuple[int, int, Holder, Callable[[], None]] | None:
        """The best of those who may have the key now, taken out of the queue."""
        if len(key.holders) < key.capacity:
            return heapq.heappop(key.queue) if key.queue else None
        borrowers = [entry for entry in key.queue if key.is_free_for(entry[2])]
        if not borrowers:
            return None
        best = min(borrowers)
        key.queue.remove(best)
        heapq.heapify(key.queue)
        return best


class _Search:
    """Looks for a circle of waiting that goes through ``family``: the one who would wait, and all who await it."""

    def __init__(self, keys: dict[str, _Key], below: dict[Holder, dict[Holder, str]], holder: Holder) -> None:
        self._keys = keys
        self._below = below
        self._family = {holder, *ancestors(holder)}
        self._ways: dict[Holder, list[str]] = {}

    def way(self, waiter: Holder, name: str, path: Sequence[str] = ()) -> list[str]:
        """The keys by which ``waiter``, who wants ``name``, waits for the family; empty where it does not.

        One who holds a key and never ends is enough; of slots all must be held by such.
        """
        if waiter in self._ways:
            return self._ways[waiter]
        key, path = self._keys[name], [*path, name]
        self._ways[waiter] = path if key.capacity > 1 else []
        lending = set(lenders(waiter)) if key.capacity == 1 else ()
        ways = [self._way_from(owner, path) for owner in key.holders if owner not in lending]
        is_stuck = any(ways) if key.capacity == 1 else all(ways)
        self._ways[waiter] = found = next((way for way in ways if way), []) if is_stuck else []
        return found

    def _way_from(self, owner: Holder, path: Sequence[str]) -> list[str]:
        if owner in self._family:
            return list(path)
        ways = (self.way(waiter, wanted, path) for waiter, wanted in self._below.get(owner, {}).items())
        return next((way for way in ways if way), [])


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
