"""Whose data a stream holds: a subject is said once, and what is asked for there later is recorded for it too.

The newest fact of a stream says whose it is. A request whose event declares ``belongs_to`` carries that subject by
itself, and with it all that is said, read and requested in its name.
"""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING

from ksi.core.errors import ConflictError
from ksi.core.ports import Journal

if TYPE_CHECKING:
    from ksi.kernel.execution import Execution


class Place:
    """A stream that requests under way belong to."""

    __slots__ = ("branch", "is_known", "requests", "stream", "subject", "turn")

    def __init__(self, branch: str, stream: str) -> None:
        self.branch = branch
        self.stream = stream
        self.requests = 0
        self.subject: str | None = None
        self.is_known = False
        self.turn = asyncio.Lock()
        """Fair: requests of one stream begin in the order in which they came."""


class Subjects:
    """Those of the streams that requests under way belong to; all others are in the log."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places: dict[tuple[str, str], Place] = {}

    def place_of(self, execution: Execution) -> Place | None:
        """Where it belongs, if that may matter: then :meth:`settle` comes before it begins. It counts from now on."""
        belongs_to, envelope = execution.row.declaration.belongs_to, execution.envelope
        if belongs_to is None or not self._journal.seals:
            return None
        if envelope.subject is None and not self._journal.has_subjects and not self._places:
            return None
        stream = belongs_to(execution.payload)
        if stream is None:
            return None
        place = self._places.setdefault((envelope.branch, stream), Place(envelope.branch, stream))
        place.requests += 1
        execution.watch(self._left, place)
        return place

    def _left(self, place: Place, *_: object) -> None:
        place.requests -= 1
        if place.requests == 0:
            self._places.pop((place.branch, place.stream), None)

    async def settle(self, execution: Execution, place: Place) -> None:
        """Let it carry the subject of where it belongs.

        Raises:
            ConflictError: That is another one than its own.
        """
        async with place.turn:
            if not place.is_known:
                place.subject = await self._subject_of(place)
                place.is_known = True
        if place.subject is None:
            place.subject = execution.envelope.subject
        adopt(execution, place.subject, where=place.stream)

    async def _subject_of(self, place: Place) -> str | None:
        newest = self._journal.read_stream(place.stream, backwards=True, limit=1, branch=place.branch)
        return next(iter([event.subject async for event in newest]), None)


def adopt(execution: Execution, subject: str | None, *, where: str) -> None:
    """Record for ``subject`` what is said from now on, here and by those who wait for it, where it is nobody's yet.

    Raises:
        ConflictError: It has another subject: what it says there could be erased for neither without the other.
    """
    each: Execution | None = execution
    while each is not None and not each.is_recorded:  # of a query nothing is recorded but in the name of who asked
        each = each.parent
    if each is None or subject is None or not execution.router.journal.seals:
        return
    if (own := each.envelope.subject) not in (None, subject):
        raise ConflictError(f"{where} is recorded for {subject}, the request for {own}", subject=subject)
    while each is not None:
        if each.envelope.subject is None:
            each.envelope = copy(each.envelope)  # a row that is written holds it as it was
            each.envelope.subject = subject
        each = each.parent
