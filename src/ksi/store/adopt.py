"""A row that another process wrote, as what it changes in the indexes of this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ksi.core import ids
from ksi.store.row import Row, requests_of


class Enters(Protocol):
    """Where ids are entered."""

    def add(self, raw: bytes, position: int) -> None: ...
    def close(self, raw: bytes, position: int) -> None: ...


def adopt(row: Row, index: Enters, open_requests: dict[bytes, int]) -> None:
    """Enter the ids of ``row``, what it opens and what it closes."""
    for raw, position in entered_of(row):
        index.add(raw, position)
    for position, request in requests_of(row):
        if row.closing is None or request.event_id != row.origin.event_id:
            open_requests[request.event_id] = position
    if row.closing is not None and not row.recorded:
        open_requests.pop(row.origin.event_id, None)
        index.close(row.origin.event_id, row.last)


def entered_of(row: Row) -> Iterator[tuple[bytes, int]]:
    """All ids of ``row`` that can not be derived, with their positions; see :func:`ksi.store.build.entered_ids`."""
    for position, request in requests_of(row):
        yield request.event_id, position
    for base in row.bases:
        yield base, row.last
    bases, nth = row.bases or (row.origin.event_id,), 0
    for line in row.lines:
        block = nth // ids.ENTRIES_MAX
        if block < len(bases) and line.id == ids.nth_of(bases[block], nth % ids.ENTRIES_MAX + 1):
            nth += 1
        else:
            yield line.event_id.bytes, line.position
