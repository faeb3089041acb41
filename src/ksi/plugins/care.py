"""Care of the log as events: copies of it, and erasing what somebody's data was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from ksi.core.blobs import Blobs
from ksi.core.events import Backup, Erased, fact
from ksi.core.ports import EventLog
from ksi.core.views import UpcastersChecked
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.plugins import Plugins
from ksi.plugins.shapes import File, Folder, file_of
from ksi.store.archives import STREAM


@fact("store:was_backed_up")
class WasBackedUp(msgspec.Struct, frozen=True):
    """There is a copy of all events up to ``position`` in the file ``path``."""

    path: str
    position: int
    bytes: int
    sha256: str


@fact("store:subject_was_erased")
class SubjectWasErased(msgspec.Struct, frozen=True):
    """So many ``events`` of ``subject`` can not be read any more."""

    subject: str
    events: int


class Care(AsyncPlugin):
    """Keeps the log for years."""

    name = "care"
    requires = (Blobs,)

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._blobs = self.host.services.get(Blobs)

    @event(
        "store:backup",
        durability="before",
        timeout=None,
        errors=["conflict", "log_damaged", "unavailable", "unsupported"],
        examples=[{"path": "/backups/ksi-monday.db"}],
    )
    async def backup(
        self, path: File, context: EventContext, keys: File | None = None, blobs: Folder | None = None
    ) -> Backup:
        """Copy the log into a file while all goes on. The answer says up to which position, and the file's checksum.

        What was recorded for a subject is in the copy as ciphertext; ``keys`` is another file, for the keys. ``blobs``
        is a folder for the large payloads, new or from the last time: only what it lacks is copied.
        """
        targets = file_of(path), None if keys is None else file_of(keys), None if blobs is None else file_of(blobs)
        made: Backup = await context.effect(
            "store:backup",
            {"path": path, "keys": keys, "blobs": blobs},
            lambda: self._backed_up(*targets),
            result=Backup,
        )
        context.append(STREAM, WasBackedUp(made.path, made.position, made.bytes, made.sha256))
        return made

    @event(
        "store:erase",
        durability="before",
        on_crash="rerun",
        timeout=None,
        errors=["conflict", "unavailable", "unsupported"],
        examples=[{"subject": "person/1"}],
    )
    async def erase(
        self,
        subject: Annotated[str, Meta(min_length=1, description="whose data")],
        context: EventContext,
        with_damaged: Annotated[bool, Meta(description="remove the damaged logs that were put aside, whole")] = False,
    ) -> Erased:
        """Erase what was recorded for a subject: its key is destroyed, read models are built again without it.

        Nobody can read it any more, here or in a backup of the log. Names, streams and times of the events stay.
        """
        erased: Erased = await context.effect(
            "store:erase",
            {"subject": subject, "with_damaged": with_damaged},
            lambda: self._erased(subject, with_damaged),
            result=Erased,
            idempotent=True,
        )
        context.append(STREAM, SubjectWasErased(subject, erased.events))
        return erased

    async def _backed_up(self, path: Path, keys: Path | None, blobs: Path | None) -> Backup:
        """The blobs after the log: what it names is there before it is named."""
        made = await self._log.backup(path, keys=keys)
        return made if blobs is None else replace(made, blobs=await self._blobs.mirror(blobs))

    async def _erased(self, subject: str, with_damaged: bool) -> Erased:
        blobs = await self._blobs.drop(subject)
        return replace(await self._log.erase_subject(subject, with_damaged=with_damaged), blobs=blobs)

    @query("store:check_upcasters", timeout=None, examples=[{}])
    async def check_upcasters(self) -> UpcastersChecked:
        """Try the upcasters of all plugins on all facts of older schema versions that are stored."""
        return await self._log.check_upcasters(self.host.services.get(Plugins).facts.newest())
