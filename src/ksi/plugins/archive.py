"""Archives as events: what explains how answers came about leaves the log for a file, by hand or when it is old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.clock import Clock, utc
from ksi.core.config import Config, RetentionSection
from ksi.core.errors import KSIError, UnsupportedError
from ksi.core.events import Archive, ArchiveCategory, Attached, LogSizes, Position
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.plugins.shapes import File, Place, file_of, position
from ksi.store.archives import STREAM, WAS_ARCHIVED, WasArchived

LOOK_S = 6 * 3600.0
"""Seconds between two looks for what is too old."""
LEAST = 1_000
"""Positions that must have become too old, so that files are few."""
Categories = Annotated[list[ArchiveCategory], Meta(min_length=1, description="what leaves; both where not said")]


class Archived(msgspec.Struct, frozen=True):
    """The archives that were made."""

    archives: list[Archive]


class Due(msgspec.Struct, frozen=True):
    """A category of which all before ``before`` is too old, and the file that it goes to."""

    category: ArchiveCategory
    before: Position
    path: Path


class ArchivePlugin(AsyncPlugin):
    """Keeps the log small."""

    name = "archive"

    async def initialize(self) -> None:
        services = self.host.services
        self._log = services.get(EventLog)
        self._now = services.get(Clock).time_us
        config = services.get(Config) if services.provider_of(Config) else None
        self._retention = RetentionSection() if config is None else config.store.retention
        self._directory = self._chosen_directory(config)
        self._looked_to: dict[ArchiveCategory, int] = {}
        if self._retention.days:
            self.host.spawn(self._run())

    def _chosen_directory(self, config: Config | None) -> Path | None:
        if self._retention.directory is not None:
            return Path(self._retention.directory).expanduser()
        return None if config is None else config.home.archives

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @event(
        "store:archive",
        durability="before",
        on_crash="rerun",
        timeout=None,
        errors=["conflict", "log_damaged", "unavailable", "unsupported"],
        examples=[{"path": "/archives/ksi-2026.archive", "before": "@120000"}],
    )
    async def archive(
        self, path: File, before: Place, context: EventContext, categories: Categories | None = None
    ) -> Archive:
        """Move chunks and effects of closed runs that stand before a position into a file, which is checked first.

        Facts, requests and outcomes stay, and so do positions and ids. Who reads what has left is told the file.
        """
        target, place = file_of(path), position(before)
        wanted: list[ArchiveCategory] = categories or ["chunks", "effects"]
        made: Archive = await context.effect(
            "store:archive",
            {"path": path, "before": place, "categories": wanted},
            partial(self._log.archive, target, before=place, categories=wanted),
            result=Archive,
            idempotent=True,
        )
        return made

    @event(
        "store:attach",
        durability="before",
        on_crash="rerun",
        timeout=None,
        errors=["conflict", "log_damaged", "not_found", "unavailable", "unsupported"],
        examples=[{"path": "/archives/ksi-2026.archive"}],
    )
    async def attach(self, path: File, context: EventContext) -> Attached:
        """Bring back what is in an archive. The file is not needed any more then."""
        attached: Attached = await context.effect(
            "store:attach", {"path": path}, partial(self._log.attach, file_of(path)), result=Attached, idempotent=True
        )
        return attached

    @event(
        "store:apply_retention", on_crash="rerun", timeout=None, errors=["unavailable", "unsupported"], examples=[{}]
    )
    async def apply_retention(self, context: EventContext) -> Archived:
        """Archive now what is older than ``store.retention`` says."""
        if not self._retention.days:
            raise UnsupportedError("nothing is too old: store.retention says for no category how long it is kept")
        due = [one async for one in self._due(least=1)]
        made = [await self._archived(one, context) for one in due]
        return Archived([one for one in made if one.rows])

    async def _archived(self, due: Due, context: EventContext) -> Archive:
        _make(due.path.parent)
        asked = {"path": str(due.path), "before": due.before, "categories": [due.category]}
        made = msgspec.convert(await context.request("store:archive", asked), Archive)
        self._looked_to[due.category] = due.before - 1  # also where nothing has left, and no fact says so
        return made

    @query("store:sizes", timeout=None, errors=["unsupported"], examples=[{}])
    async def sizes(self) -> LogSizes:
        """Say what of the log's file is what, in bytes; from a sample where it is large."""
        return await self._log.sizes()

    # ── by itself ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _run(self) -> None:
        await self.host.up()
        while True:
            try:
                if [one async for one in self._due(least=LEAST)]:
                    await self.host.request("store:apply_retention")
            except KSIError as error:
                self.host.logger.warning("store.retention could not be applied: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _due(self, *, least: int) -> AsyncIterator[Due]:
        """What is too old by now, where that is ``least`` positions more than what was archived before."""
        assert self._directory is not None
        for category, days in self._retention.days.items():
            last = await self._log.position_at(utc(self._now()) - timedelta(days=days))
            if last is not None and last - await self._archived_to(category) >= least:
                before = Position(last + 1)
                yield Due(category, before, self._directory / f"{category}-before-{before}.archive")

    async def _archived_to(self, category: ArchiveCategory) -> int:
        if category in self._looked_to:
            return self._looked_to[category]
        async for one in self._log.read_stream(STREAM, backwards=True):
            if one.name == WAS_ARCHIVED and category in one.into(WasArchived).categories:
                return one.into(WasArchived).before - 1
        return 0


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
