"""Everything that a log says of itself, checked against itself."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from ksi.core import ids
from ksi.core.errors import LogDamagedError
from ksi.store.chain import GENESIS, Link
from ksi.store.opening import check_witness, checked_rows, stored_checkpoints, stored_head, stored_open
from ksi.store.row import Row, requests_of


def verify(connection: apsw.Connection, seen: Link) -> list[str]:
    """What is wrong, one sentence each. ``seen`` is the head that the witness saw."""
    connection.execute("BEGIN")  # one state of the log, whatever is committed meanwhile
    try:
        return [*_problems(connection, seen)]
    finally:
        connection.execute("COMMIT")


def _problems(connection: apsw.Connection, seen: Link) -> Iterator[str]:
    head = stored_head(connection)
    for (answer,) in connection.execute("PRAGMA quick_check"):
        if answer != "ok":
            yield f"SQLite: {answer}"
    try:
        check_witness(connection, head, seen)
    except LogDamagedError as error:
        yield error.message
    found = _Found(connection)
    try:
        for row, _ in checked_rows(connection, GENESIS):
            yield from found.add(row)
    except LogDamagedError as error:
        yield error.message
        return
    yield from found.end()
    for subscriber, position in stored_checkpoints(connection).items():
        if position > head.last:
            yield f"the checkpoint of {subscriber!r} is at @{position}, beyond the head @{head.last}"


class _Found:
    """What the rows say, against the indexes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._heads: dict[str, int] = {}
        self._open: dict[bytes, int] = {}
        self._at = 0
        self._last = 0

    def add(self, row: Row) -> Iterator[str]:
        if row.at < self._at:
            yield f"the row @{row.last} was recorded before the one in front of it"
        if row.first <= self._last:
            yield f"the row @{row.last} overlaps the one in front of it"
        self._at, self._last = row.at, row.last
        yield from self._versions(row)
        yield from self._ids(row)

    def _versions(self, row: Row) -> Iterator[str]:
        for line in row.lines:
            expected = self._heads.get(line.stream, 0) + 1
            if line.version != expected:
                yield f"{line.stream} has version {line.version} @{row.last} where {expected} comes next"
            self._heads[line.stream] = line.version

    def _ids(self, row: Row) -> Iterator[str]:
        for position, request in requests_of(row):
            self._open[request.id] = position
            yield from self._entered(request.id, position)
        for base in row.bases:
            yield from self._entered(base, row.last)
        if row.closing is not None and self._open.pop(row.origin.id, None) is None:
            yield f"the request {ids.text(row.origin.id)} is closed @{row.last} and was not open"

    def _entered(self, raw: bytes, position: int) -> Iterator[str]:
        found = self._connection.execute("SELECT pos FROM ids WHERE id = ?", (raw,)).get
        if found != position:
            yield f"the index of ids has {ids.text(raw)} @{found}, not @{position}"

    def end(self) -> Iterator[str]:
        stored = stored_open(self._connection)
        for raw in stored.keys() ^ self._open.keys():
            where = "is open and not" if raw in self._open else "is not open but"
            yield f"the request {ids.text(raw)} {where} in the index of open requests"
