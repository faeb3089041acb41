"""Care of the log as events: copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ksi.core.errors import ValidationError
from ksi.core.events import Backup, fact
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin

STREAM = "store/log"


@fact("store:was_backed_up")
class WasBackedUp(msgspec.Struct, frozen=True):
    """There is a copy of all events up to ``position`` in the file ``path``."""

    path: str
    position: int
    bytes: int
    sha256: str


class Care(AsyncPlugin):
    """Keeps the log for years."""

    name = "care"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)

    @event(
        "store:backup",
        durability="before",
        timeout=None,
        errors=["conflict", "log_damaged", "unavailable", "unsupported"],
        examples=[{"path": "/backups/ksi-monday.db"}],
    )
    async def backup(
        self,
        path: Annotated[str, Meta(description="a new file on the daemon's machine, absolute")],
        context: EventContext,
    ) -> Backup:
        """Copy the log into a file while all goes on. The answer says up to which position, and the file's checksum."""
        target = Path(path)
        if not target.is_absolute() or not target.parent.is_dir():
            raise ValidationError(f"{path!r} is no file in a directory that is there, from the root on")
        made: Backup = await context.effect(
            "store:backup", {"path": path}, lambda: self._log.backup(target), result=Backup
        )
        context.append(STREAM, WasBackedUp(made.path, made.position, made.bytes, made.sha256))
        return made
