"""Rows as they are read where they lie: none is taken for the truth that is not as it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NoReturn

from ksi.core.errors import LogDamagedError
from ksi.store.chain import DIGEST
from ksi.store.row import Row
from ksi.store.stub import R, checked_row

WholeBefore = Callable[[int], int]
"""The end of the last commit in front of a position."""


def read_rows(
    stored: Sequence[tuple[int, Any]], read: Callable[[bytes], R], whole_before: WholeBefore = lambda last: 0
) -> list[Row | R]:
    """The rows in sealed bodies, each with its position, by ``read``: ``unpack`` or ``unpack_lines``.

    Raises:
        LogDamagedError: One is not as it was written.
    """
    # The digest costs 0.5 µs a row; one call more for each would cost as much again.
    try:
        return [
            read(packed)
            if blake2b(packed := body[:-DIGEST], digest_size=DIGEST).digest() == body[-DIGEST:]
            else _stub(last, body, whole_before)
            for last, body in stored
        ]
    except TypeError:  # the type that the database says may be flipped too
        _damaged(next(last for last, body in stored if not isinstance(body, bytes)), whole_before)


def _stub(last: int, stored: bytes, whole_before: WholeBefore) -> Row:
    row = checked_row(stored)
    if row is None:
        _damaged(last, whole_before)
    return row


def _damaged(last: int, whole_before: WholeBefore) -> NoReturn:
    raise LogDamagedError(f"the row @{last} is not as it was written", position=whole_before(last)) from None
