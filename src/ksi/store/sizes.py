"""What of the log's file is what: by category, from a sample of its rows where they are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import apsw

from ksi.core.events import LogSizes
from ksi.store.opening import stored_head
from ksi.store.row import Row, pack
from ksi.store.schema import pragma
from ksi.store.stub import AWAY, EFFECTS, is_stub, read_row

SAMPLE = 4_096
"""Positions that are looked at."""


def sizes_of(log: apsw.Connection) -> LogSizes:
    """Bytes in the file that ``log`` reads."""
    page = pragma(log, "page_size")
    total, free = page * pragma(log, "page_count"), page * pragma(log, "freelist_count")
    return sizes_from(stored_head(log).last, lambda position: log.execute(_AT, (position,)).get, total, free)


def sizes_from(head: int, body_at: Callable[[int], bytes | None], total: int, free: int) -> LogSizes:
    """Of ``total`` bytes, ``free`` ones among them. ``body_at`` gives the row at a position, or the next one."""
    step = max(1, head // SAMPLE)
    found: Counter[str] = Counter()
    for stored, weight in _sample(body_at, head, step):
        row = read_row(stored)
        shares = _shares(row)
        if is_stub(stored):
            shares["archived"] = max(1, len(stored) - sum(shares.values()))
        # A row of many events is met as many times.
        per_byte = len(stored) * weight / (sum(shares.values()) * row.size)
        for category, size in shares.items():
            found[category] += round(size * per_byte)
    others = max(0, total - free - sum(found.values()))
    return LogSizes(**found, others=others, free=free, is_estimate=step > 1)


def _sample(body_at: Callable[[int], bytes | None], head: int, step: int) -> Iterator[tuple[bytes, int]]:
    """Rows, each with the number of positions that it stands for."""
    for position in range(step, head + 1, step):
        stored = body_at(position)
        if stored is not None:
            yield stored, step


def _shares(row: Row) -> Counter[str]:
    """How the bytes of a row are divided, of a stub those that stayed."""
    found: Counter[str] = Counter()
    for line in row.lines:
        if line.raw.startswith(AWAY):
            continue
        category = "effects" if line.stream == EFFECTS else "chunks" if line.kind == "chunk" else "facts"
        found[category] += len(pack(line))
    for request in (*row.ancestors, *row.emits, *((row.origin,) if row.recorded else ())):
        found["requests"] += len(pack(request))
    if row.closing is not None:
        found["requests"] += len(pack(row.closing))
    return found


_AT = "SELECT body FROM log WHERE pos >= ? ORDER BY pos LIMIT 1"
