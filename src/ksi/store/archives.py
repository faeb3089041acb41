"""Archives of a log: which there are, by the log's own facts, and who asks for what is in one.

Only chunks and effects leave (see :mod:`ksi.store.stub`): facts are what states are folded from, requests and outcomes
what a retry is answered by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ksi.core.errors import ArchivedError
from ksi.core.events import ARCHIVED, ArchiveCategory, RecordedEvent, fact
from ksi.store.row import Row
from ksi.store.stub import AWAY, archive_of, is_stub
from ksi.store.vault import GONE

STREAM = "store/log"
"""What became of the log as a whole."""
WAS_ARCHIVED, WAS_ATTACHED = "store:was_archived", "store:was_attached"


@fact(WAS_ARCHIVED)
class WasArchived(msgspec.Struct, frozen=True, kw_only=True):
    """``rows`` with chunks or effects of closed runs leave the log for the file ``path``, which holds them already.

    What stands in their place is bound to the chain by ``stubs``, the hash over all of it. Up to ``rest`` nothing is
    left that could leave.
    """

    path: str
    id: str
    before: int
    rest: int
    categories: list[ArchiveCategory]
    rows: int
    bytes: int
    sha256: str
    stubs: str


@fact(WAS_ATTACHED)
class WasAttached(msgspec.Struct, frozen=True):
    """``rows`` of the archive are in the log again."""

    path: str
    id: str
    rows: int


class Archives:
    """Those that the log names. ``is_any``: some rows may not be here. Changed on the loop, read from any thread."""

    def __init__(self) -> None:
        self.is_any = False
        self._facts: list[WasArchived | WasAttached] = []

    def see(self, events: Iterable[RecordedEvent]) -> None:
        """Take in what was recorded."""
        for event in events:
            if event.name == WAS_ARCHIVED:
                self._facts.append(event.into(WasArchived))
            elif event.name == WAS_ATTACHED:
                self._facts.append(event.into(WasAttached))

    def made(self, archive: str) -> WasArchived | None:
        """The fact of the archive with this id."""
        return next((one for one in self._facts if isinstance(one, WasArchived) and one.id == archive), None)

    def rest(self, categories: Sequence[ArchiveCategory]) -> int:
        """Up to there nothing is left in the log that could leave."""
        rest = 0
        for one in self._facts:
            if isinstance(one, WasAttached):
                rest = 0
            elif set(categories) <= set(one.categories):
                rest = max(rest, one.rest)
        return rest

    def seen(self, events: list[RecordedEvent], *, envelopes: bool) -> list[RecordedEvent]:
        """``events``; of what is in an archive the envelope, with the file in its metadata.

        Raises:
            ArchivedError: An event is in one, and ``envelopes`` are not enough.
        """
        return [self._seen(event, envelopes) if event.raw.startswith(AWAY) else event for event in events]

    def _seen(self, event: RecordedEvent, envelopes: bool) -> RecordedEvent:
        archive = event.raw[len(AWAY) :].hex()
        made = self.made(archive)
        file = f"with the id {archive}" if made is None else made.path
        if not envelopes:
            raise ArchivedError(position=event.position, file=file, archive=archive)
        return replace(event, raw=GONE, metadata={ARCHIVED: file})


class CheckedStubs:
    """The stubs of a log, against what it said of them when they were made."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, Any]] = {}
        self._made: dict[str, WasArchived] = {}

    def add(self, row: Row, stored: bytes) -> None:
        if is_stub(stored):
            count, stubs = self._found.get(archive := archive_of(stored).hex(), (0, hashlib.sha256()))
            stubs.update(stored)
            self._found[archive] = (count + 1, stubs)
        for line in row.lines:
            if line.name == WAS_ARCHIVED and line.stream == STREAM:
                made = line.into(WasArchived)
                self._made[made.id] = made

    def end(self) -> Iterator[str]:
        for archive, (count, stubs) in self._found.items():
            made = self._made.get(archive)
            if made is None:
                yield f"{count} rows are in an archive with the id {archive}, of which the log does not know"
            elif count > made.rows or (count == made.rows and stubs.hexdigest() != made.stubs):
                yield f"what is left here of the archive {made.path} is not what was left when it was made"
            # Fewer: it was not finished, or not attached to the end; both go on when they are asked for again.
