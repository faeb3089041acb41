"""Reading the PostgreSQL log: single rows, rows by their keys, and what others wrote."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import psycopg

from ksi.core.errors import LogDamagedError, UnavailableError
from ksi.core.events import Position
from ksi.store.chain import GENESIS, Link
from ksi.store.checked import read_rows
from ksi.store.idindex import KnownId
from ksi.store.opening import checked_commit
from ksi.store.postgres_arrays import Bigints, Byteas
from ksi.store.postgres_keys import key_number
from ksi.store.postgres_schema import Connection, connect
from ksi.store.row import Row, unpack
from ksi.store.tail import R, linked

Parameters = Sequence[Any] | Mapping[str, Any]
COMMITS_MAX = 1_024
"""Commits that are read at once."""
RECENT = 1_000
"""Positions that are read and checked when a log is opened: fewer than the commits above, of one position or more."""


class Session:
    """A connection for one reader at a time, made again when it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._is_closed = False

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """What ``query`` gives; asked again where the connection was lost meanwhile.

        Raises:
            UnavailableError: There is no server, or it does not answer.
        """
        try:
            try:
                return self._ask(query, parameters)
            except psycopg.OperationalError:
                if self._connection is not None and not self._connection.closed:
                    raise
                return self._ask(query, parameters)
        except psycopg.Error as error:
            raise UnavailableError("the log", f"{type(error).__name__}: {str(error).strip()}") from error

    def _ask(self, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        if self._is_closed:
            raise UnavailableError("the log", "it is closed")
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url)
        return self._connection.execute(query.encode(), parameters, binary=True).fetchall()

    def value(self, query: str, parameters: Parameters = ()) -> Any:
        """The first column of the first row; None where there is none."""
        rows = self.rows(query, parameters)
        return rows[0][0] if rows else None

    def close(self) -> None:
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class PostgresTable:
    """Rows on disk up to ``flushed``, seen through one session."""

    def __init__(self, session: Session, flushed: int) -> None:
        self._session = session
        self._flushed = flushed

    def rows(
        self,
        keys: Sequence[str] | None,
        after: int,
        upto: int,
        backwards: bool,
        count: int,
        unpack: Callable[[bytes], R],
    ) -> list[Row | R]:
        bounds = {"after": after, "upto": min(upto, self._flushed), "count": count}
        if keys is None:
            found = self._session.rows(_ordered(_SCAN, backwards), bounds)
        else:
            own = [raw for key in keys if (raw := linked(key)) is not None]
            numbers = Bigints(map(key_number, keys))
            found = self._session.rows(_ordered(_KEYED, backwards), bounds | {"keys": numbers, "own": Byteas(own)})
        return read_rows(found, unpack, self._whole_before)

    def _whole_before(self, last: int) -> int:
        return self._session.value("SELECT max(last) FROM ksi.commits WHERE last < %s", (last,)) or 0

    def row_at(self, position: int) -> Row | None:
        stored = self._session.rows(_ROW_AT, (position,))
        row = next(iter(read_rows(stored, unpack, self._whole_before)), None)
        return row if row is not None and row.first <= position else None

    def names(self) -> Sequence[str]:
        return [name.decode() for (name,) in self._session.rows("SELECT name FROM ksi.names")]

    def streams(self) -> Sequence[str]:
        return [name.decode() for (name,) in self._session.rows(_STREAMS)]

    def last_version(self, stream: str) -> int:
        found: int | None = self._session.value(_VERSION, (_stored_name(stream),))
        return found or 0

    def start_of(self, stream: str, version: int) -> int:
        """A position after which all of the stream's events from ``version`` on follow, and few others."""
        found: int | None = self._session.value(_START, (_stored_name(stream), version))
        return found or 0


def _stored_name(name: str) -> bytes:
    return name.encode(errors="replace")  # a lone surrogate is in no stored name, and no error here


def _ordered(query: str, backwards: bool) -> str:
    return query.replace("ASC", "DESC") if backwards else query


_SCAN = "SELECT last, body FROM ksi.log WHERE last > %(after)s AND last <= %(upto)s ORDER BY last ASC LIMIT %(count)s"
# Each key gives its own first rows in order, so that a key with a million rows costs what one with ten does. A row that
# a key leads to and that is gone has no body.
_KEYED = """
SELECT chosen.last, body FROM (
    SELECT found.last FROM (
        SELECT k.last FROM unnest(%(keys)b) AS wanted(key), LATERAL (
            SELECT last FROM ksi.keys WHERE keys.key = wanted.key AND last > %(after)s AND last <= %(upto)s
            ORDER BY last ASC LIMIT %(count)s
        ) k
        UNION
        SELECT (SELECT last FROM ksi.log WHERE last >= place ORDER BY last LIMIT 1)
        FROM ksi.ids, unnest(ARRAY[pos, done]) AS place WHERE id = ANY (%(own)b)
    ) found
    WHERE found.last > %(after)s AND found.last <= %(upto)s ORDER BY found.last ASC LIMIT %(count)s
) chosen LEFT JOIN ksi.log ON log.last = chosen.last ORDER BY chosen.last ASC
"""
_ROW_AT = "SELECT last, body FROM ksi.log WHERE last >= %s ORDER BY last LIMIT 1"
_VERSION = "SELECT version FROM ksi.streams WHERE name = %s ORDER BY version DESC LIMIT 1"
_START = "SELECT last FROM ksi.streams WHERE name = %s AND version < %s ORDER BY version DESC LIMIT 1"
# From each name to the next one through the index: a stream of a million events is looked at once.
_STREAMS = """
WITH RECURSIVE found AS (
    (SELECT name FROM ksi.streams ORDER BY name LIMIT 1)
    UNION ALL
    SELECT (SELECT s.name FROM ksi.streams s WHERE s.name > found.name ORDER BY s.name LIMIT 1)
    FROM found WHERE found.name IS NOT NULL
) SELECT name FROM found WHERE name IS NOT NULL
"""


class PostgresIdTable:
    """See :class:`ksi.store.idindex.StoredIds`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, raw: bytes) -> tuple[int, int | None] | None:
        rows = self._session.rows("SELECT pos, done FROM ksi.ids WHERE id = %s", (raw,))
        return (rows[0][0], rows[0][1]) if rows else None

    def newest(self, high: bytes, count: int) -> list[KnownId]:
        query = "SELECT id, pos, done FROM ksi.ids WHERE id < %s ORDER BY id DESC LIMIT %s"
        return [(raw, position, done) for raw, position, done in self._session.rows(query, (high, count))]

    def between(self, low: bytes, high: bytes) -> list[KnownId]:
        query = "SELECT id, pos, done FROM ksi.ids WHERE id >= %s AND id < %s"
        return [(raw, position, done) for raw, position, done in self._session.rows(query, (low, high))]


# ── what others wrote ────────────────────────────────────────────────────────────────────────────────────────────────
class News(msgspec.Struct, frozen=True, gc=False):
    """What is in the log behind ``start``: links, their rows, also as stored. ``more``: there may be even more."""

    start: Link
    links: Sequence[Link]
    rows: Sequence[tuple[Row, bytes]]
    checkpoints: Mapping[str, Position]
    more: bool

    @property
    def link(self) -> Link:
        """The last that is known with it."""
        return self.links[-1] if self.links else self.start


def read_news(connection: Connection, known: Link) -> News:
    """What is in the log behind ``known``.

    Raises:
        LogDamagedError: ``known`` is not in the log any more, or what is behind it does not fit it.
    """
    links = [Link(*found) for found in connection.execute(_LINKS, (known.at, COMMITS_MAX), binary=True)]
    if known != GENESIS and links[:1] != [known]:
        raise LogDamagedError(f"@{known.last} was acknowledged, and is not in the log any more", position=0)
    newest = links[-1] if links else known
    bodies = connection.execute(_ROWS, (known.last, newest.last), binary=True).fetchall()
    behind = [link for link in links if link != known]
    rows = list(rows_of(known, behind, bodies))
    return News(known, behind, rows, stored_checkpoints(connection), len(links) == COMMITS_MAX)


def read_recent(connection: Connection) -> News:
    """The newest rows, at least :data:`RECENT` positions of them."""
    return read_news(connection, link_before(connection, stored_link(connection).last - RECENT))


def link_before(connection: Connection, position: int) -> Link:
    """The last commit that ends at ``position`` or in front of it."""
    query = "SELECT at, last, hash FROM ksi.commits WHERE last <= %s ORDER BY last DESC LIMIT 1"
    found = connection.execute(query, (position,), binary=True).fetchone()
    return GENESIS if found is None else Link(*found)


def rows_of(start: Link, links: Sequence[Link], bodies: Sequence[tuple[int, bytes]]) -> Iterator[tuple[Row, bytes]]:
    """Rows of the commits ``links``, the first of which is behind ``start``; ``bodies`` with their positions.

    Raises:
        LogDamagedError: They do not fit.
    """
    previous, place = start, 0
    for link in links:
        begin, place = place, bisect_right(bodies, link.last, key=itemgetter(0))
        own = [body for _, body in bodies[begin:place]]
        yield from zip(checked_commit(previous, link, own), own, strict=True)
        previous = link


def stored_link(connection: Connection) -> Link:
    """The newest."""
    found = connection.execute(_NEWEST, binary=True).fetchone()
    return GENESIS if found is None else Link(*found)


def stored_checkpoints(connection: Connection) -> dict[str, Position]:
    found = connection.execute("SELECT subscriber, pos FROM ksi.checkpoints", binary=True)
    return {subscriber.decode(): Position(position) for subscriber, position in found}


_NEWEST = "SELECT at, last, hash FROM ksi.commits ORDER BY at DESC LIMIT 1"
_LINKS = "SELECT at, last, hash FROM ksi.commits WHERE at >= %s ORDER BY at LIMIT %s"
_ROWS = "SELECT last, body FROM ksi.log WHERE last > %s AND last <= %s ORDER BY last"
