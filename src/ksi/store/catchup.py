"""An inline view that is far behind when it is registered: brought to the head in slices, while others go on."""

from __future__ import annotations

import asyncio
import logging

from ksi.core.errors import InternalError, KSIError
from ksi.store.cursor import Cursor
from ksi.store.parked import said
from ksi.store.rebuild import PAGE_MAX, Rebuilding
from ksi.store.views import KeptView, ViewBook

_log = logging.getLogger("ksi.store")


class CatchUp:
    """One such view. From the head on it is applied with each commit; its readers wait till then."""

    def __init__(self, log: Rebuilding, book: ViewBook, kept: KeptView, position: int) -> None:
        self._log = log
        self._book = book
        self._kept = kept
        self.position = position
        loop = asyncio.get_running_loop()
        self._coming: asyncio.Future[None] = loop.create_future()
        self._coming.add_done_callback(_seen)
        kept.coming, kept.shelf.is_behind = self._coming, True
        self.task = loop.create_task(self._run())

    def cancel(self, error: KSIError) -> None:
        """End it; those who wait get ``error``."""
        self.task.cancel()
        if not self._coming.done():
            self._coming.set_exception(error)

    async def _run(self) -> None:
        name = self._kept.view.name
        try:
            await self._fold()
        except Exception as error:  # noqa: BLE001  # a view's code is a plugin's
            _log.error("the view %s can not be built: %s", name, said(error), exc_info=error)
            self._coming.set_exception(InternalError(f"the view {name}", said(error)))

    async def _fold(self) -> None:
        kept = self._kept
        while self.position < (head := self._log.visible_head()):
            await self._fold_to(head)
        self._log.fold_view(kept, self.position)  # what is under way too
        kept.coming, kept.shelf.is_behind = None, False
        self._book.add(kept)
        self._coming.set_result(None)

    async def _fold_to(self, head: int) -> None:
        kept = self._kept
        cursor = Cursor(kept.query, after=self.position, until=head)
        while not cursor.at_end:
            page = await self._log.page(cursor, PAGE_MAX)
            kept.show_all(kept.apply_again(page, passes_over=self._log.vault.has_erased))
            self.position = cursor.position
            self._log.view_stands(kept, self.position)
            await asyncio.sleep(0)


def _seen(coming: asyncio.Future[None]) -> None:
    coming.exception()  # it is logged; that nobody waited for it is no fault
