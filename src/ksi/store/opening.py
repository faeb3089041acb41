"""What a log must prove when it is opened, and what is read into memory then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from ksi.core.errors import LogDamagedError
from ksi.core.events import Position
from ksi.store.chain import GENESIS, Link, Witness, next_link
from ksi.store.row import Row
from ksi.store.stub import checked_row
from ksi.store.tail import Tail


class Recovered(msgspec.Struct, frozen=True):
    """``flushed``: every row up to there has its keys on disk. ``tail``: the rows behind it."""

    head: Link
    flushed: int
    tail: Tail
    open: dict[bytes, int]
    checkpoints: dict[str, Position]


class Commit(NamedTuple):
    """A commit with its rows, also as stored."""

    link: Link
    rows: Sequence[Row]
    bodies: Sequence[bytes]


def recover(connection: apsw.Connection, witness: Witness, tail: Tail) -> Recovered:
    """Check the witness, and the chain from the last commit that is known to be whole. ``tail`` is still empty.

    Raises:
        LogDamagedError: What was acknowledged is not there, or not as it was written.
    """
    head = stored_head(connection)
    check_witness(connection, head, witness.read())
    flushed, verified = meta(connection, "flushed") or 0, meta(connection, "verified") or 0
    start = link_at(connection, verified) if verified else GENESIS
    for row, stored in checked_rows(connection, start):
        if row.last > flushed:
            tail.add(row, stored)
    return Recovered(head, flushed, tail, stored_open(connection), stored_checkpoints(connection))


def check_witness(connection: apsw.Connection, head: Link, seen: Link) -> None:
    """The head is where the witness saw it, or further: a crash between commit and witness leaves it behind."""
    if seen.last > head.last or seen.at > head.at:
        reason = f"@{seen.last} was acknowledged, but the log ends at @{head.last}"
        raise LogDamagedError(reason, position=head.last)
    if seen.at and link_at(connection, seen.at) != seen:
        raise LogDamagedError(f"the commit that ends at @{seen.last} is not the one that was acknowledged", position=0)


def checked_rows(connection: apsw.Connection, start: Link) -> Iterator[tuple[Row, bytes]]:
    """The rows after ``start``, also as stored; those of a commit are given when its digests and link are right."""
    for _, rows, bodies in checked_commits(connection, start):
        yield from zip(rows, bodies, strict=True)


def checked_commits(connection: apsw.Connection, start: Link) -> Iterator[Commit]:
    """The commits after ``start``, each when its digests and link are right.

    Raises:
        LogDamagedError: What comes next is not what was written.
    """
    previous = start
    for link in map(Link._make, connection.execute("SELECT * FROM commits WHERE at > ? ORDER BY at", (start.at,))):
        bodies = [stored for (stored,) in connection.execute(_BODIES, (previous.last, link.last))]
        yield Commit(link, checked_commit(previous, link, bodies), bodies)
        previous = link
    beyond = connection.execute("SELECT max(pos) FROM log").get or 0
    if beyond > previous.last:
        raise LogDamagedError(f"rows up to @{beyond} belong to no commit", position=previous.last)


_BODIES = "SELECT body FROM log WHERE pos > ? AND pos <= ? ORDER BY pos"


def checked_commit(previous: Link, link: Link, bodies: Sequence[bytes]) -> list[Row]:
    """The rows of the commit behind ``previous``.

    Raises:
        LogDamagedError: A digest or the link does not fit.
    """
    rows = [_checked(stored, previous) for stored in bodies]
    if next_link(previous, link.at, link.last, bodies) != link or not rows or rows[-1].last != link.last:
        raise LogDamagedError(f"the commit that ends at @{link.last} does not fit its link", position=previous.last)
    return rows


def _checked(stored: Any, previous: Link) -> Row:
    row = checked_row(stored) if isinstance(stored, bytes) else None  # the type that SQLite says may be flipped too
    if row is None:
        raise LogDamagedError("a row's digest does not fit it", position=previous.last)
    return row


def stored_head(connection: apsw.Connection) -> Link:
    found = connection.execute("SELECT * FROM commits ORDER BY at DESC LIMIT 1").get
    return GENESIS if found is None else Link(*found)


def link_at(connection: apsw.Connection, at: int) -> Link:
    """The commit of that moment; :data:`GENESIS` where there is none."""
    found = connection.execute("SELECT * FROM commits WHERE at = ?", (at,)).get
    return GENESIS if found is None else Link(*found)


def meta(connection: apsw.Connection, key: str) -> int | None:
    value: int | None = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
    return value


def stored_open(connection: apsw.Connection) -> dict[bytes, int]:
    return dict(connection.execute("SELECT id, pos FROM open ORDER BY pos"))


def stored_checkpoints(connection: apsw.Connection) -> dict[str, Position]:
    return dict(connection.execute("SELECT subscriber, pos FROM checkpoints WHERE branch = 0"))
