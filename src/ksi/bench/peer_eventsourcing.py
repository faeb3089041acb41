"""The library ``eventsourcing``, as its users have it: an aggregate, an application, its own SQLite recorder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from ksi.bench.measure import Sample, Stopwatch
from ksi.bench.plugin import item

PAGE = 1_000


class Thing(Aggregate):  # type: ignore[misc]  # the library is not followed: it may not be installed
    """What is put."""

    @event("WasPut")  # type: ignore[untyped-decorator]  # as above
    def put(self, key: str, text: str, count: int, ratio: float, tags: list[str]) -> None:
        self.count = count


@contextmanager
def application(path: Path) -> Iterator[Application]:
    opened = Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
    try:
        yield opened
    finally:
        opened.close()


def filled(path: Path, count: int) -> None:
    """``count`` events, a page in each commit."""
    with application(path) as opened:
        thing = Thing()
        for start in range(0, count, PAGE):
            for number in range(start, min(start + PAGE, count)):
                thing.put(**item(number))
            opened.save(thing)


def replay(path: Path) -> Sample:
    """All events as objects, in the order of the log."""
    with application(path) as opened:
        watch, seen = Stopwatch(), 0
        while page := opened.recorder.select_notifications(seen + 1, PAGE):
            for stored in page:
                opened.mapper.to_domain_event(stored)
            seen += len(page)
        return watch.sample(seen)
