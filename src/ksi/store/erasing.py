"""Erasing what was recorded for a subject: its key first, then all that was computed from what the key had sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from ksi.core.errors import UnsupportedError
from ksi.core.events import MAIN, Backend, BranchInfo, Erased, Filter, RecordedEvent
from ksi.core.views import Projections
from ksi.store.cursor import Cursor
from ksi.store.query import KINDS, Compiled
from ksi.store.sight import Sight
from ksi.store.tail import RowSource
from ksi.store.vault import Vault
from ksi.store.views import ViewBook

PAGE = 128
"""Events that are looked at in one turn of the loop."""
_EVERYTHING = (Filter(kinds=KINDS),)


class Erasing(Protocol):
    """The log as an erasure sees it."""

    backend: Backend
    vault: Vault

    @property
    def projections(self) -> Projections: ...
    async def branches(self) -> Sequence[BranchInfo]: ...
    def visible_head(self) -> int: ...
    def stored_source(self) -> RowSource: ...
    def sight(self, branch: str) -> Sight: ...
    async def destroy_key(self, subject: str) -> None: ...
    async def overwrite(self) -> None:
        """Leave nothing on disk of what views held before. Raises UnavailableError."""

    async def damaged(self, *, remove: bool) -> Sequence[str]:
        """Files of damaged logs that were put aside, and are there still. Raises UnavailableError."""


async def erase(log: Erasing, book: ViewBook, subject: str, *, with_damaged: bool) -> Erased:
    """See :meth:`ksi.core.ports.EventLog.erase_subject`."""
    if not log.vault.can_erase:
        raise UnsupportedError(f"a log in {log.backend} that was opened without a file of keys seals nothing")
    await log.destroy_key(subject)
    events, concerned = 0, set[str]()
    for branch in await log.branches():
        async for event in _envelopes(log, branch.name):
            if event.subject == subject and event.branch == branch.name:
                events += 1
                concerned |= _views_of(event, book)
    for name in sorted(concerned):
        await log.projections.rebuild(name)
    await log.overwrite()
    return Erased(subject, events, sorted(concerned), damaged=await log.damaged(remove=with_damaged))


async def _envelopes(log: Erasing, branch: str) -> AsyncIterator[RecordedEvent]:
    """All events that are seen from ``branch``, as they are stored: no payload is looked at."""
    cursor = Cursor(Compiled(_EVERYTHING, log.sight(branch)), after=0, until=log.visible_head())
    while not cursor.at_end:
        for event in cursor.page(log.stored_source(), PAGE):
            yield event
        await asyncio.sleep(0)


def _views_of(event: RecordedEvent, book: ViewBook) -> set[str]:
    """The read models that have seen ``event``."""
    if event.branch != MAIN:
        return set()
    return {kept.view.name for kept in book.shown() if kept.query.matches(event)}
