"""Upcasters, tried on all that is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ksi.core.errors import InternalError
from ksi.core.events import Filter, RecordedEvent
from ksi.core.views import UpcastersChecked
from ksi.store.cursor import Cursor
from ksi.store.query import Compiled
from ksi.store.sight import Sight
from ksi.store.tail import RowSource
from ksi.store.upcasting import Upcasters
from ksi.store.vault import Vault

PAGE = 128
"""Events that are tried in one turn of the loop."""
SAID_MAX = 100
Newest = Mapping[str, tuple[int, type]]


class Checked(Protocol):
    """The log as this check sees it."""

    vault: Vault

    def visible_head(self) -> int: ...
    def stored_source(self) -> RowSource: ...
    def sight(self, branch: str) -> Sight: ...


async def check(log: Checked, branches: Sequence[str], upcasters: Upcasters, newest: Newest) -> UpcastersChecked:
    """See :meth:`ksi.core.ports.EventLog.check_upcasters`."""
    names = upcasters.names | {name for name, (version, _) in newest.items() if version > 1}
    events, problems = 0, list[str]()
    wanted = (Filter(names=tuple(sorted(names))),)
    for branch in branches if names else ():
        cursor = Cursor(Compiled(wanted, log.sight(branch)), after=0, until=log.visible_head())
        while not cursor.at_end:
            for event in log.vault.opened(cursor.page(log.stored_source(), PAGE)):
                if event.branch == branch and not event.is_erased and _is_old(event, upcasters, newest):
                    events += 1
                    problems += _problems(event, upcasters, newest)
            await asyncio.sleep(0)
    return UpcastersChecked(events, problems[:SAID_MAX])


def _is_old(event: RecordedEvent, upcasters: Upcasters, newest: Newest) -> bool:
    return upcasters.has(event) or event.schema_version < newest.get(event.name, (0, object))[0]


def _problems(event: RecordedEvent, upcasters: Upcasters, newest: Newest) -> Iterator[str]:
    """What is wrong with the way from this event's version to the newest."""
    place = f"{event.name} version {event.schema_version} @{event.position}"
    try:
        first, second = upcasters.newest(event), upcasters.newest(event)
    except InternalError as error:
        yield error.message
        return
    if first.raw != second.raw:
        yield f"{place}: its upcaster is not pure: it says something else the second time"
    version, kind = newest.get(event.name, (first.schema_version, None))
    if first.schema_version != version:
        yield f"{place}: upcasters lead to version {first.schema_version}, the fact is at version {version}"
    elif kind is not None:
        try:
            msgspec.json.decode(first.raw, type=kind)
        except msgspec.ValidationError as error:
            yield f"{place}: what comes out does not fit {kind.__name__}: {error}"
