"""A view folded anew beside the one that readers see, compared with it, and put in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ksi.core.errors import InternalError
from ksi.core.events import Position, RecordedEvent
from ksi.core.views import Difference, Rebuilt
from ksi.store.cursor import Cursor
from ksi.store.order import AFTER_ALL
from ksi.store.parked import PARKED_MAX, ParkedEvents, said
from ksi.store.vault import Vault
from ksi.store.views import KeptView, Span, ViewBook

PAGE_MAX = 128
"""Events that are folded, and records that are compared, in one turn of the loop."""
EXAMPLES_MAX = 20


class Rebuilding(Protocol):
    """The log as a rebuild sees it."""

    vault: Vault

    def visible_head(self) -> int: ...
    async def page(self, cursor: Cursor, count: int) -> list[RecordedEvent]: ...
    async def view_beside(self, kept: KeptView) -> KeptView:
        """The same view with no record yet, in a place of its own."""

    def view_stands(self, kept: KeptView, position: int) -> None:
        """What ``kept`` shows holds all up to ``position``."""

    def fold_view(self, kept: KeptView, position: int) -> None:
        """Bring ``kept`` from ``position`` to the head, and under it what is under way; in this turn of the loop."""

    async def swap_views(self, old: KeptView, new: KeptView) -> None:
        """Let ``new`` take the place of ``old``, on disk and for readers; both have seen the same facts."""

    async def clear_view(self, kept: KeptView) -> None:
        """Forget all its records."""

    async def parked_of(self, subscriber: str) -> ParkedEvents: ...


class Rebuild:
    """One rebuild of ``old``; the view beside it is ``new``. Where ``old`` is not whole they can not be compared."""

    new: KeptView

    def __init__(self, log: Rebuilding, book: ViewBook, old: KeptView, *, is_whole: bool) -> None:
        self._log = log
        self._book = book
        self._old = old
        self._is_whole = is_whole
        self._position = 0
        self._failed: list[tuple[RecordedEvent, Exception]] = []

    # ── folding ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def fold(self, goal: Callable[[], int]) -> None:
        """Fold the new one from the start until it is where ``goal`` is by then."""
        self.new = await self._log.view_beside(self._old)
        while self._position < goal():
            await self._fold_to(goal())

    async def _fold_to(self, position: int) -> None:
        cursor = Cursor(self.new.query, after=self._position, until=position)
        while not cursor.at_end:
            self._take(await self._log.page(cursor, PAGE_MAX))
            self._position = cursor.position
            self._log.view_stands(self.new, self._position)
            await asyncio.sleep(0)

    def _take(self, page: Sequence[RecordedEvent]) -> None:
        try:
            self.new.show_all(self.new.apply_again(page, passes_over=self._log.vault.has_erased))
        except Exception as error:  # noqa: BLE001  # a view's code is a plugin's
            if len(page) == 1:
                self._note_failure(page[0], error)
                return
            for event in page:
                self._take([event])

    def _note_failure(self, event: RecordedEvent, error: Exception) -> None:
        if len(self._failed) >= PARKED_MAX:
            raise InternalError(f"the view {self._old.view.name}", f"@{event.position}: {said(error)}") from error
        self._failed.append((event, error))

    # ── a view that is applied with each commit ──────────────────────────────────────────────────────────────────────
    async def inline(self, *, swap: bool) -> Rebuilt:
        """From the moment it has come to the head the new one is applied with each commit too, until they are compared.

        Raises:
            InternalError: It can not take a fact of the log, and commits would have failed for that.
        """
        await self.fold(self._log.visible_head)
        if self._failed:
            event, error = self._failed[0]
            await self._log.clear_view(self.new)
            raise InternalError(f"the view {self._old.view.name}", f"@{event.position}: {said(error)}") from error
        self._log.fold_view(self.new, self._position)
        self._book.add(self.new)
        beside = self.new.view.name
        try:
            found = await self._compared()
            if swap:
                await self._log.swap_views(self._old, self.new)
        finally:
            self._book.remove(beside)
        return await self._ended(found, self._log.visible_head(), swap=swap)

    # ── one that is folded behind ────────────────────────────────────────────────────────────────────────────────────
    async def behind(self, position: int, parked: ParkedEvents, *, swap: bool) -> Rebuilt:
        """The old one stands still at ``position``. What the new one could not take is parked, what it could is not."""
        await self._fold_to(position)
        found = await self._compared()
        if swap:
            await self._swap(parked)
        return await self._ended(found, position, swap=swap)

    async def _compared(self) -> Comparison:
        return await compare(self._old, self.new) if self._is_whole else Comparison()

    async def _swap(self, parked: ParkedEvents) -> None:
        failed = [(event, error) for event, error in self._failed if parked.may_hold(event)]
        taken = await parked.others({event.position for event, _ in failed})
        for event, error in failed:
            await parked.park(event, said(error))
        # A crash from here on leaves it open whether they are in the records: then the view begins anew.
        for event in (*taken, *(event for event, _ in failed)):
            await parked.doubt(event)
        await self._log.swap_views(self._old, self.new)
        for event in taken:
            await parked.settle(event)
        for event, error in failed:
            await parked.park(event, said(error))

    async def _ended(self, found: Comparison, position: int, *, swap: bool) -> Rebuilt:
        if not swap:
            await self._log.clear_view(self.new)
        return Rebuilt(
            name=self._old.view.name,
            position=Position(position),
            records=found.records,
            added=found.added,
            removed=found.removed,
            changed=found.changed,
            examples=found.examples,
            swapped=swap,
        )


class Comparison:
    """What differs between two views."""

    def __init__(self) -> None:
        self.records = self.added = self.removed = self.changed = 0
        self.examples: list[Difference] = []

    def note(self, key: tuple[Any, ...], before: Any | None, after: Any | None) -> None:
        self.records += after is not None
        if before == after:
            return
        self.added += before is None
        self.removed += after is None
        self.changed += before is not None and after is not None
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(Difference(key, before, after))


async def compare(old: KeptView, new: KeptView) -> Comparison:
    """All records, some in each turn of the loop: the two see the same facts at any time."""
    found, low = Comparison(), b""
    while (end := _compare_some(old, new, low, found)) is not None:
        low = end + b"\0"
        await asyncio.sleep(0)
    return found


def _compare_some(old: KeptView, new: KeptView, low: bytes, found: Comparison) -> bytes | None:
    """The last place up to which all from ``low`` on is compared now; None: to the end."""
    span = Span(None, low, AFTER_ALL, backwards=False)
    before, after = dict(old.shelf.scan(span, PAGE_MAX)), dict(new.shelf.scan(span, PAGE_MAX))
    end = min((max(page) for page in (before, after) if len(page) == PAGE_MAX), default=None)
    for place in sorted(before.keys() | after.keys()):
        if end is not None and place > end:
            break
        record = before.get(place) or after[place]
        found.note(old.key_of(record), before.get(place), after.get(place))
    return end
