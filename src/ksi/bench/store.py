"""The log alone: what is appended and what is read, beside bare SQLite and beside what others do for the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from ksi.bench import nats_server, store_append, store_read
from ksi.bench.measure import Row


@contextmanager
def rows(directory: Path, *, count: int) -> Iterator[list[Row]]:
    with ExitStack() as stack:
        peers = _peers(stack, directory)
        found = [*store_append.rows(peers, count), *store_read.rows(directory, count)]
        if peers.postgres is not None:
            from ksi.bench import postgres  # an extra

            found.append(postgres.row(peers.postgres, store_append.RAW, count=count // 4))
        yield found


def _peers(stack: ExitStack, directory: Path) -> store_append.Peers:
    """Those that are installed, started."""
    absent = [name for name in ("aiosqlite", "eventsourcing") if find_spec(name) is None] + nats_server.missing()
    nats = None if nats_server.missing() else stack.enter_context(nats_server.nats_server(directory / "nats"))
    server = None
    if find_spec("psycopg"):
        from ksi.bench import postgres  # an extra

        server = stack.enter_context(postgres.serving())
        absent += [] if server else ["PostgreSQL's server"]
    else:
        absent.append("psycopg")
    return store_append.Peers(directory, nats, server, absent)
