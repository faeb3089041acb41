"""Keys of rows in PostgreSQL: a number for each, entered with the row; and names of events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from ksi.store.checked import read_rows
from ksi.store.keys import number_of
from ksi.store.postgres_arrays import Bigints, Byteas
from ksi.store.query import INDEX, keys_of
from ksi.store.row import Row, unpack

KIND = str(INDEX).encode()
"""Which set of keys the rows have, as it is remembered in the database."""
PAGE = 1_000
"""Rows whose keys are written at once."""


def key_number(key: str) -> int:
    """``key`` as it is stored. The one of a stream is a hash here: its rows are also found by name and version."""
    return number_of(f"in:{key[2:]}" if key.startswith("s:") else key, {})


def entries(rows: Iterable[Row]) -> tuple[Bigints, Bigints]:
    """The numbers of all keys, and the rows that they lead to."""
    pairs = [(number, row.last) for row in rows for number in {key_number(key) for key in keys_of(row)}]
    return Bigints([number for number, _ in pairs]), Bigints([last for _, last in pairs])


def names_in(rows: Iterable[Row]) -> set[str]:
    """All names of facts and requests."""
    return {key[2:] for row in rows for key in keys_of(row) if key.startswith(("n:", "q:"))}


def as_stored(names: Iterable[str]) -> Byteas:
    return Byteas([name.encode() for name in sorted(names)])


def write_anew(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Forget all keys and enter those of all rows. In a transaction of the caller's, in which nobody else writes."""
    connection.execute("TRUNCATE ksi.keys")
    last = 0
    while rows := read_rows(connection.execute(_PAGE, (last, PAGE), binary=True).fetchall(), unpack):
        connection.execute("INSERT INTO ksi.keys SELECT * FROM unnest(%b, %b)", entries(rows))
        connection.execute(_NAMES, (as_stored(names_in(rows)),))
        last = rows[-1].last


_PAGE = "SELECT last, body FROM ksi.log WHERE last > %s ORDER BY last LIMIT %s"
_NAMES = "INSERT INTO ksi.names SELECT unnest(%b) ON CONFLICT DO NOTHING"
