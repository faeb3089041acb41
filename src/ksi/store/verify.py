"""Everything that a log says of itself, checked against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache

import apsw
import msgspec

from ksi.core import ids
from ksi.core.errors import LogDamagedError
from ksi.core.events import MAIN
from ksi.store.archives import CheckedStubs
from ksi.store.chain import GENESIS, Link
from ksi.store.idindex import SqliteIdTable
from ksi.store.keys import Table, number_of, unpack_positions
from ksi.store.opening import check_witness, checked_rows, meta, stored_checkpoints, stored_head, stored_open
from ksi.store.query import keys_of
from ksi.store.row import Row, requests_of
from ksi.store.schema import DAMAGE, MISREAD
from ksi.store.shelf import entry_of, is_whole, quoted
from ksi.store.sight import marked
from ksi.store.snapshots import wrong_snapshots
from ksi.store.vault import Vault, key_of, sealed_in


def verify(connection: apsw.Connection, seen: Link, vault: Vault | None = None) -> list[str]:
    """What is wrong, one sentence each. ``seen`` is the head that the witness saw; None: the keys are elsewhere."""
    found: list[str] = []
    connection.execute("BEGIN")  # one state of the log, whatever is committed meanwhile
    try:
        found.extend(_problems(connection, seen, SealedPayloads(vault)))
        found.extend(map(view_damaged, _damaged_views(connection)))
    except MISREAD as error:
        found.append(f"it can not be read: {error}")
    finally:
        with suppress(*DAMAGE):
            connection.execute("ROLLBACK")
    return found


def _problems(connection: apsw.Connection, seen: Link, payloads: SealedPayloads) -> Iterator[str]:
    head = stored_head(connection)
    for (answer,) in connection.execute("PRAGMA quick_check"):
        if answer != "ok":
            yield f"SQLite: {answer}"
    try:
        check_witness(connection, head, seen)
    except LogDamagedError as error:
        yield error.message
    found, keys, stubs = Indexes(SqliteIdTable(connection).find), _Keys(connection), CheckedStubs()
    last = 0
    try:
        for row, stored in checked_rows(connection, GENESIS):
            stubs.add(row, stored)
            yield from found.add(row)
            keys.add(row)
            payloads.add(row)
            last = row.last
    except LogDamagedError as error:
        yield error.message
        return
    except MISREAD as error:
        yield f"what comes after @{last} can not be read: {error}"
        return
    yield from found.end(stored_open(connection))
    if not keys.fit():
        yield KEYS_DAMAGED
    yield from payloads.end()
    yield from stubs.end()
    yield from wrong_snapshots(connection, head.last)
    for subscriber, position in stored_checkpoints(connection).items():
        if position > head.last:
            yield f"the checkpoint of {subscriber!r} is at @{position}, beyond the head @{head.last}"


def view_damaged(name: str) -> str:
    return f"the view {name!r} is not as it was written: it is built again from the log"


def _damaged_views(connection: apsw.Connection) -> Iterator[str]:
    """Views of which a record, an index or the entry is not as it was written."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'views'").get:
        return  # what is derived is made again by the next start
    for (name,) in connection.execute("SELECT name FROM views"):
        entry = entry_of(connection, name)
        if entry is None or not _is_whole_table(connection, quoted(f"view:{name}"), entry.records):
            yield name


def _is_whole_table(connection: apsw.Connection, table: str, records: int) -> bool:
    try:
        (answer,) = connection.execute(f"PRAGMA integrity_check({table})").fetchone() or ("",)
        rows = map(is_whole, connection.execute(f"SELECT * FROM {table}"))  # noqa: S608  # a quoted name
        return answer == "ok" and sum(1 if whole else records + 1 for whole in rows) == records
    except (apsw.CorruptError, apsw.SQLError):
        return False


class Indexes:
    """What the rows say, against the indexes of ids and of open requests. ``find`` is asked for every id."""

    def __init__(self, find: Callable[[bytes], tuple[int, int | None] | None]) -> None:
        self._find = find
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
            name = marked(line.stream, line.branch)
            known = self._heads.get(
                name, 0 if line.branch == MAIN else line.version - 1
            )  # a branch goes on from its cut
            if line.version != known + 1:
                yield f"{line.stream} has version {line.version} @{row.last} where {known + 1} comes next"
            self._heads[name] = line.version

    def _ids(self, row: Row) -> Iterator[str]:
        for position, request in requests_of(row):
            self._open[request.event_id] = position
            yield from self._entered(request.event_id, position)
        for base in row.bases:
            yield from self._entered(base, row.last)
        if row.closing is not None:
            yield from self._closed(row)

    def _closed(self, row: Row) -> Iterator[str]:
        raw = row.origin.event_id
        if self._open.pop(raw, None) is None:
            yield f"the request {ids.text(raw)} is closed @{row.last} and was not open"
        done = row.last if row.recorded else (self._find(raw) or (None, None))[1]
        if done != row.last:
            yield f"the index of ids has the end of {ids.text(raw)} @{done}, not @{row.last}"

    def _entered(self, raw: bytes, position: int) -> Iterator[str]:
        found = (self._find(raw) or (None, None))[0]
        if found != position:
            yield f"the index of ids has {ids.text(raw)} @{found}, not @{position}"

    def end(self, stored: Mapping[bytes, int]) -> Iterator[str]:
        for raw, position in stored.items() ^ self._open.items():
            where = "is open and not" if self._open.get(raw) == position else "is not open but"
            yield f"the request {ids.text(raw)} @{position} {where} in the index of open requests"


class SealedPayloads:
    """What is sealed, against the keys that there are, and those that were destroyed."""

    def __init__(self, vault: Vault | None) -> None:
        self._vault = vault
        self._known: set[bytes] = set()
        self._lost = 0

    def add(self, row: Row) -> None:
        if self._vault is None:
            return
        for key_id in map(key_of, sealed_in(row)):
            if key_id in self._known or self._vault.knows(key_id):
                self._known.add(key_id)
            else:
                self._lost += 1

    def end(self) -> Iterator[str]:
        if self._lost:
            yield f"{self._lost} payloads are sealed, and their keys are not in the file of keys: restore that"


KEYS_DAMAGED = "the keys, by which events are found, do not fit the log: they are written anew at the next start"
NUMBERS_MAX = 65_536
"""Keys whose numbers are kept in memory."""


class _Keys:
    """The keys that the rows should have, against those on disk: each as a sum, which needs no memory and no order."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._flushed = meta(connection, "flushed") or 0
        self._table = Table(connection, self._flushed)
        self._number = lru_cache(NUMBERS_MAX)(self._number_of)
        self._names: set[str] = set()
        self._sum = 0

    def add(self, row: Row) -> None:
        if row.last > self._flushed:
            return
        # One number for two keys is entered once.
        self._sum += sum([hash((number, row.last)) for number in set(map(self._number, keys_of(row)))])

    def _number_of(self, key: str) -> int | None:
        if key.startswith(("n:", "q:")):
            self._names.add(key[2:])
        return self._table.stream_id(key[2:]) if key.startswith("s:") else number_of(key, {})

    def fit(self) -> bool:
        names = {name for (name,) in self._connection.execute("SELECT name FROM names")}
        return self._names <= names and self._sum == self._stored()

    def _stored(self) -> int | None:
        total = 0
        try:
            for number, at, posting in self._connection.execute("SELECT key, at, posting FROM keys"):
                positions = unpack_positions(posting)
                total += sum([hash((number, position)) for position in positions])
                if positions[0] != at:
                    return None
        except (msgspec.DecodeError, IndexError):
            return None
        return total
