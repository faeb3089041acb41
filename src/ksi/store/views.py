"""Views as both backends keep them: applied to a pending overlay when a unit is decided, visible when it is on disk.

A *shelf* holds what is visible; it is a dict in memory, and a bounded memory in front of a table in SQLite.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec

from ksi.core import canonical
from ksi.core.errors import NotFoundError, ValidationError
from ksi.core.events import ERASED, RecordedEvent
from ksi.core.views import Page, View
from ksi.store.order import AFTER_ALL, beginning_of, sort_key
from ksi.store.query import Compiled
from ksi.store.row import Line, Row

R = TypeVar("R")
_log = logging.getLogger("ksi.store")
Key = tuple[Any, ...]
SCAN_MAX = 1000
"""Records a page of a scan has at most."""


class Shelf(Protocol):
    """The visible records of one view. ``get`` and ``scan`` do not wait.

    ``is_behind``: they do not stand at the head but where they were last said to.
    """

    is_behind: bool

    def get(self, key: Key) -> Any | None: ...
    def put(self, key: Key, record: Any | None) -> None: ...
    def scan(self, span: Span, limit: int) -> list[tuple[bytes, Any]]: ...


class Span(NamedTuple):
    """Places ``low <= place < high`` in the index ``by`` (None: the key), from the end where ``backwards``."""

    by: str | None
    low: bytes
    high: bytes
    backwards: bool


class Change(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a unit does to one record; ``record`` None: deleted."""

    kept: KeptView
    key: Key
    record: Any | None


class KeptView:
    """One registered view. It is the ``ViewWriter`` that its own ``apply`` gets."""

    def __init__(self, view: View[Any], shelf: Shelf, place_of: Place) -> None:
        self.view = view
        self.shelf = shelf
        self.coming: asyncio.Future[None] | None = None
        """Until it is where it can be read; None: it is."""
        self.query = Compiled(view.query)
        self.place_of = place_of
        self.key_of = key_getter(view.key)
        self._risky = _risky_indexes(view)
        self._pending: dict[Key, Change] = {}
        self._unit: list[Change] = []
        self._undo: list[tuple[Key, Change | None]] = []

    @property
    def is_inline(self) -> bool:
        """Whether it is applied with each commit."""
        return self.view.inline and self.coming is None

    # the writer's side
    def get(self, *key: Any) -> Any | None:
        change = self._pending.get(key)
        return self.shelf.get(key) if change is None else change.record

    def put(self, record: Any) -> None:
        """Change a record. One that can not be stored is refused here, where it fails its own command alone."""
        canonical.encode(record)
        for index in self._risky:
            self.place_of(index, record)
        self._change(self.key_of(record), record)

    def delete(self, *key: Any) -> None:
        self._change(key, None)

    def _change(self, key: Key, record: Any | None) -> None:
        change = Change(self, key, record)
        self._undo.append((key, self._pending.get(key)))
        self._pending[key] = change
        self._unit.append(change)

    # the log's side
    def apply(self, events: Iterable[RecordedEvent]) -> list[Change]:
        """Changes that ``events`` make. An error of the view's code passes, and leaves nothing behind."""
        self._unit, self._undo = [], []
        try:
            for event in events:
                if ERASED not in event.metadata:
                    self.view.apply(self, event)
        except BaseException:
            self.undo()
            raise
        return self._unit

    def apply_again(self, events: Sequence[RecordedEvent], *, passes_over: bool) -> list[Change]:
        """The same for facts that it has taken once. One that it can not take may be passed over.

        So it is where something was erased: what is left may not be what ``apply`` was written for.
        """
        try:
            return self.apply(events)
        except Exception as error:
            if not passes_over:
                raise
            if len(events) == 1:
                _log.warning("the view %s goes on without @%d: %s", self.view.name, events[0].position, error)
                return []
        return [change for event in events for change in self.apply_again([event], passes_over=True)]

    def chosen(self, facts: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        """Those of ``facts`` that the view's query asks for."""
        matches = self.query.matches
        return [fact for fact in facts if matches(fact)]

    def undo(self) -> None:
        """Forget the changes of the last :meth:`apply`."""
        for key, before in reversed(self._undo):
            if before is None:
                del self._pending[key]
            else:
                self._pending[key] = before
        self._undo = []

    def show(self, change: Change) -> None:
        """Make ``change`` visible: its unit is on disk."""
        if self._pending.get(change.key) is change:
            del self._pending[change.key]
        self.shelf.put(change.key, change.record)

    def show_all(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self.show(change)

    def forget_pending(self) -> None:
        """No unit under way will be on disk."""
        self._pending.clear()


def _risky_indexes(view: View[Any]) -> list[str | None]:
    """Indexes (None: the key) with a field whose values may have no place, as an integer of more than 64 bits."""
    types = {field.name: field.type for field in msgspec.structs.fields(view.record)}
    indexes: list[tuple[str | None, Sequence[str]]] = [(None, view.key), *view.indexes.items()]
    return [index for index, fields in indexes if any(types.get(name) not in _PLACED for name in fields)]


_PLACED = (str, bytes, bool, float, datetime, UUID, str | None)


class Place:
    """Where a record stands: bytes that sort by an index, then by the key."""

    def __init__(self, view: type[View[Any]]) -> None:
        self._fields: dict[str | None, Callable[[Any], Key]] = {None: key_getter(view.key)}
        for index, fields in view.indexes.items():
            self._fields[index] = key_getter((*fields, *view.key))

    def __call__(self, index: str | None, record: Any) -> bytes:
        return sort_key(self._fields[index](record))

    def span(self, index: str | None, prefix: Sequence[Any], begins: str, after: str | None, backwards: bool) -> Span:
        """What a scan has still to show. ``after`` is the token of a page."""
        if index not in self._fields:
            raise NotFoundError("index", str(index))
        low = sort_key(prefix) + beginning_of(begins)
        high = low + AFTER_ALL
        if after is not None:
            low, high = (low, _place(after)) if backwards else (_place(after) + b"\0", high)
        return Span(index, low, high, backwards)


def key_getter(fields: Sequence[str]) -> Callable[[Any], Key]:
    """The tuple of ``fields`` of a record."""
    get = attrgetter(*fields)
    return get if len(fields) > 1 else lambda record: (get(record),)


def _place(token: str) -> bytes:
    try:
        return bytes.fromhex(token)
    except ValueError:
        raise ValidationError(f"{token!r} is no page of a scan") from None


class KeptViewReader(Generic[R]):
    """``context.view(V)``."""

    def __init__(self, kept: KeptView) -> None:
        self._kept = kept

    async def get(self, *key: Any) -> R | None:
        if self._kept.coming is not None:
            await asyncio.shield(self._kept.coming)
        return self._kept.shelf.get(key)

    async def scan(
        self,
        index: str | None = None,
        *prefix: Any,
        begins: str = "",
        after: str | None = None,
        limit: int = 100,
        backwards: bool = False,
    ) -> Page[R]:
        if self._kept.coming is not None:
            await asyncio.shield(self._kept.coming)
        limit = min(limit, SCAN_MAX)
        span = self._kept.place_of.span(index, prefix, begins, after, backwards)
        found = self._kept.shelf.scan(span, limit + 1)
        more = len(found) > limit
        return Page([record for _, record in found[:limit]], found[limit - 1][0].hex() if more and limit else None)


class ViewBook:
    """All registered views, and which of them care for which fact."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptView] = {}
        self._by_name: dict[str, tuple[KeptView, ...]] = {}

    def add(self, kept: KeptView) -> None:
        self.kept[kept.view.name] = kept
        self._by_name.clear()

    def shown(self) -> list[KeptView]:
        """All but those that are being rebuilt beside another."""
        return [kept for name, kept in self.kept.items() if not name.endswith(BESIDE)]

    def remove(self, name: str) -> None:
        self.kept.pop(name, None)
        self._by_name.clear()

    def apply(self, row: Row) -> list[Change]:
        """Apply every view to the facts of ``row``, in order; all of them, or none where one raises."""
        lines = row.lines
        if not lines or not (concerned := self._concerned(lines)):
            return []
        if len(lines) == len(concerned) == 1 and concerned[0].query.names_only:  # by that name it was found
            return concerned[0].apply(lines) if lines[0].kind == "fact" else []
        events = [line for line in lines if line.kind == "fact"]
        changes: list[Change] = []
        done: list[KeptView] = []
        try:
            for kept in concerned:
                changes += kept.apply(kept.chosen(events))
                done.append(kept)
        except BaseException:
            for kept in done:
                kept.undo()
            raise
        return changes

    def _concerned(self, lines: Sequence[Line]) -> Sequence[KeptView]:
        if len(lines) == 1:
            return self._named(lines[0].name)
        return tuple(dict.fromkeys(kept for line in lines for kept in self._named(line.name)))

    def _named(self, name: str) -> tuple[KeptView, ...]:
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) > NAMES_MAX:
                self._by_name.clear()
            found = tuple(kept for kept in self.kept.values() if kept.is_inline and kept.query.may_be(name))
            self._by_name[name] = found
        return found


BESIDE = "~"
"""Ends the name of a view that is rebuilt beside the one whose name stands in front of it."""
NAMES_MAX = 10_000
"""Event names for which it is remembered which views care."""
