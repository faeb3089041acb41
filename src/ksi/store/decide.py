"""What both backends share of a write: everything that is decided on the event loop, before anything is stored.

A unit is checked (ids, versions, condition, checkpoint), gets its positions and versions, becomes a row, and changes
the pending views. After that only the disk can still fail; then :meth:`Decider.reset` takes all of it back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ksi.core import ids
from ksi.core.errors import (
    AppendConditionError,
    CheckpointConflictError,
    EventIdConflictError,
    InternalError,
    UnavailableError,
    ValidationError,
    WrongExpectedVersionError,
)
from ksi.core.events import MAIN, AppendCondition, ExpectedVersion, Position, RecordedEvent, StreamState
from ksi.core.ports import Committed, Done, Entry, Unit
from ksi.store.build import build, entered_ids
from ksi.store.chain import sealed
from ksi.store.cursor import Cursor
from ksi.store.named import NewestNames
from ksi.store.query import Compiled, StreamRange
from ksi.store.row import Row, events_of, pack
from ksi.store.sight import Sight, marked
from ksi.store.tail import RowSource
from ksi.store.upcasting import Upcasters
from ksi.store.vault import Vault
from ksi.store.views import Change, ViewBook

Moved = tuple[str, Position | None]
"""A subscriber, and where its checkpoint is now; None: it has none."""


class IdIndex(Protocol):
    """Ids of requests, bases, and events with an id of their own; those of units under way too."""

    def find(self, raw: bytes) -> int | None:
        """Position of the event; for a base that of its row."""

    def is_new(self, raw: bytes) -> bool:
        """Whether it is certain, without a look at a disk, that it is not there."""

    def closing(self, raw: bytes) -> int | None:
        """Position of the row that closed the request, when it came later than the request."""

    def add(self, raw: bytes, position: int) -> None: ...
    def close(self, raw: bytes, position: int) -> None: ...
    def forget_after(self, position: int) -> None:
        """Forget what was added or closed beyond ``position``."""


class Shelves(Protocol):
    """What the decider asks a backend for, on the loop: what is visible. It does not wait."""

    ids: IdIndex
    vault: Vault
    upcasters: Upcasters

    def stored_version(self, stream: str) -> int: ...
    def sight(self, branch: str) -> Sight:
        """What is seen from ``branch``. Raises NotFoundError."""

    def stored_source(self) -> RowSource: ...
    def stored_open(self) -> dict[bytes, int]: ...
    def stored_heads(self) -> dict[str, int]:
        """Versions of all streams that can not be asked for by :meth:`stored_version` yet."""


class Decided(msgspec.Struct, gc=False):
    """A unit on its way to the disk. ``row`` None: it only moves a checkpoint, or is a duplicate of one before it."""

    done: Done
    committed: Committed
    row: Row | None = None
    body: bytes = b""
    entered: Sequence[tuple[bytes, int]] = ()
    opened: Sequence[tuple[bytes, int]] = ()
    closed: bytes | None = None  #: a request that an earlier row opened
    checkpoint: Moved | None = None
    changes: Sequence[Change] = ()


class Decider:
    """Knows the log as it will be when all units under way are on disk."""

    def __init__(self, shelves: Shelves, views: ViewBook) -> None:
        self._shelves = shelves
        self._views = views
        self.heads: dict[str, int] = {}
        self.open: dict[bytes, int] = {}
        self.checkpoints: dict[str, Position] = {}
        self.pending: deque[Decided] = deque()
        self.named = NewestNames()
        self.visible = Position(0)
        self.last = Position(0)

    def start(self, head: Position, checkpoints: Mapping[str, Position]) -> None:
        """The log is there already, up to ``head``."""
        self.visible = head
        self.named.start(head)
        self.reset(checkpoints)

    def trim(self) -> None:
        """Forget the versions of streams that can be asked for."""
        self.heads = self._shelves.stored_heads()
        for decided in self.pending:
            if decided.row is not None:
                self.heads.update((marked(line.stream, line.branch), line.version) for line in decided.row.lines)

    # ── the decision ─────────────────────────────────────────────────────────────────────────────────────────────────
    def decide(self, unit: Unit, at: int, done: Done) -> Decided:
        """``unit`` as it will be stored; raises what makes it impossible, and leaves nothing behind."""
        if unit.origin.branch != MAIN:
            self._shelves.sight(unit.origin.branch)  # there must be such a branch
        given: Sequence[Entry] = ()
        for entry in unit.entries:
            if entry.event_id is not None:
                given = [entry for entry in unit.entries if entry.event_id is not None]
                break
        if given:
            duplicate = self._duplicate(unit, given, done)
            if duplicate is not None:
                return self._queue(duplicate)
        self._check_ids(unit, given)
        if unit.expected or unit.condition is not None or unit.checkpoint is not None:
            self._check(unit)
        if not (unit.entries or unit.request or unit.outcome or unit.emits or unit.ancestors):
            return self._queue(Decided(done, Committed(self.last, (), ()), checkpoint=unit.checkpoint))
        versions, heads = self._versions(unit)
        row = build(unit, self.last, at, versions)
        decided = self._decided(unit, row, versions, done, has_given=bool(given))
        self._apply(decided, row)
        self.heads.update(heads)
        return self._queue(decided)

    def _queue(self, decided: Decided) -> Decided:
        self.pending.append(decided)
        if decided.checkpoint is not None:
            move(self.checkpoints, decided.checkpoint)
        return decided

    def move_checkpoint(self, subscriber: str, to: Position | None, done: Done) -> Decided:
        """In either direction; None forgets it."""
        return self._queue(Decided(done, Committed(self.last, (), ()), checkpoint=(subscriber, to)))

    def _check(self, unit: Unit) -> None:
        for stream, expected in unit.expected.items():
            check_version(stream, expected, self.version(stream, unit.origin.branch))
        if unit.condition is not None:
            conflicting = self._first_match(unit.condition, unit.origin.branch)
            if conflicting is not None:
                raise AppendConditionError(conflicting)
        if unit.checkpoint is not None:
            subscriber, wanted = unit.checkpoint
            actual = self.checkpoints.get(subscriber)
            if actual is not None and actual >= wanted:
                raise CheckpointConflictError(subscriber, wanted=wanted, actual=actual)
            if wanted > self.last:
                raise ValidationError(f"a checkpoint at @{wanted} would skip what comes after the head, @{self.last}")

    def _check_ids(self, unit: Unit, given: Sequence[Entry]) -> None:
        """Every id is new, and an outcome closes what is open."""
        find, raw = self._shelves.ids.find, unit.origin.event_id
        if unit.request:
            if find(raw) is not None:
                raise EventIdConflictError(ids.text(raw))
        elif unit.outcome is not None and raw not in self.open:
            raise EventIdConflictError(ids.text(raw))
        if given or unit.ancestors or unit.emits:
            others = [entry.event_id for entry in given if entry.event_id is not None]
            others += [envelope.event_id for envelope in (*unit.ancestors, *unit.emits)]
            for place, other in enumerate(others):
                if find(other) is not None or other in others[:place] or (unit.request and other == raw):
                    raise EventIdConflictError(ids.text(other))

    def version(self, stream: str, branch: str = MAIN) -> int:
        """Of the last event, units under way included."""
        name = stream if branch == MAIN else marked(stream, branch)
        version = self.heads.get(name)
        if version is None:
            stored = self._shelves.stored_version(stream) if branch == MAIN else self._seen_version(stream, branch)
            version = self.heads[name] = stored
        return version

    def _seen_version(self, stream: str, branch: str) -> int:
        """Of a stream that nothing under way has written on ``branch``."""
        cursor = Cursor(
            StreamRange(stream, 1, None, self._shelves.sight(branch)), after=0, until=self.visible, backwards=True
        )
        while not cursor.at_end:
            for event in cursor.page(self._shelves.stored_source(), 1):
                return event.version
        return 0

    def _versions(self, unit: Unit) -> tuple[tuple[int, ...], dict[str, int]]:
        """Versions of the unit's entries, and of their streams behind them."""
        heads: dict[str, int] = {}
        versions, branch = [], unit.origin.branch
        for entry in unit.entries:
            name = entry.stream if branch == MAIN else marked(entry.stream, branch)
            version = heads.get(name) or self.heads.get(name)
            heads[name] = version = (self.version(entry.stream, branch) if version is None else version) + 1
            versions.append(version)
        return tuple(versions), heads

    def _decided(self, unit: Unit, row: Row, versions: tuple[int, ...], done: Done, *, has_given: bool) -> Decided:
        try:
            row = self._shelves.vault.sealed(row)
            body = sealed(pack(row))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValidationError(f"can not be recorded: {error}") from None
        first = self.last + len(row.ancestors) + row.recorded + 1
        committed = Committed(row.last, range(first, first + len(versions)), versions)
        entered, opened = entered_ids(unit, row, self.last, has_given=has_given)
        closed = row.origin.event_id if row.closing is not None and not row.recorded else None
        return Decided(done, committed, row, body, entered, opened, closed, unit.checkpoint)

    def _apply(self, decided: Decided, row: Row) -> None:
        """Change the pending views and the indexes; the last step, for a view's code may raise."""
        try:
            decided.changes = self._views.apply(self._shelves.upcasters.row(row)) if row.origin.branch == MAIN else ()
        except (UnavailableError, InternalError):  # no fault of its code: a damaged record, or an upcaster
            raise
        except Exception as error:  # a view's code is a plugin's: any error of it fails its unit alone
            raise InternalError("a view", f"{type(error).__name__}: {error}") from error
        add = self._shelves.ids.add
        for raw, position in decided.entered:
            add(raw, position)
        if decided.opened:
            self.open.update(decided.opened)
        if decided.closed is not None:
            self.open.pop(decided.closed, None)
            self._shelves.ids.close(decided.closed, row.last)
        self.last = row.last

    # ── what is there already ────────────────────────────────────────────────────────────────────────────────────────
    def _duplicate(self, unit: Unit, given: Sequence[Entry], done: Done) -> Decided | None:
        """The unit's entries, when all of them are there with the same content; raises where only some are.

        ``given`` are those that have an id.
        """
        found = [self.event(entry.event_id) for entry in given]  # type: ignore[arg-type]  # filtered above
        known = [event for event in found if event is not None]
        if not known:
            return None
        only_entries = not (unit.request or unit.outcome or unit.emits or unit.ancestors)
        same = all(
            event is not None and _same(entry, event, unit.origin.branch)
            for entry, event in zip(given, found, strict=True)
        )
        if not only_entries or not same or len(given) != len(unit.entries):
            raise EventIdConflictError(str(known[0].event_id))
        positions, versions = tuple(event.position for event in known), tuple(event.version for event in known)
        return Decided(done, Committed(max(positions), positions, versions, deduplicated=True))

    def event(self, raw: bytes) -> RecordedEvent | None:
        """The event with this id, units under way included."""
        base = ids.base_of(raw)
        for known in (raw,) if base is None else (raw, base[0]):
            for row in self.rows_of(known):
                for event in self._shelves.vault.opened(events_of(row)):
                    if event.id == raw:
                        return event
        return None

    def rows_of(self, raw: bytes) -> Iterator[Row]:
        """The row in which ``raw`` was entered, and the one that closed it."""
        index = self._shelves.ids
        position = index.find(raw)
        if position is None:
            return
        for place in (position, index.closing(raw)):
            row = None if place is None else self.row_at(place)
            if row is not None:
                yield row

    def row_at(self, position: int) -> Row | None:
        if position <= self.visible:
            return self._shelves.stored_source().row_at(position)
        for decided in self.pending:
            if decided.row is not None and decided.row.last >= position:
                return decided.row
        return None

    def _first_match(self, condition: AppendCondition, branch: str) -> Position | None:
        wanted = Compiled(condition.fail_if_events_match, self._shelves.sight(branch))
        after = condition.after or 0
        cursor = Cursor(wanted, after=after, until=self.visible)
        while not cursor.at_end:
            page = cursor.page(self._shelves.stored_source(), 1)
            if page:
                return page[0].position
        rows = (decided.row for decided in self.pending if decided.row is not None)
        events = wanted.chosen([event for row in rows for event in events_of(row) if event.position > after])
        return events[0].position if events else None

    # ── the end of a unit ────────────────────────────────────────────────────────────────────────────────────────────
    def acknowledged(self, decided: Decided) -> None:
        """``decided``, the oldest under way, is on disk."""
        assert self.pending[0] is decided
        self.pending.popleft()
        if decided.row is not None:
            self.visible = decided.row.last
            self.named.note(decided.row)
        for change in decided.changes:
            change.kept.show(change)

    def take_pending(self) -> list[Decided]:
        """The units under way, which will not be on disk; :meth:`reset` must follow."""
        taken = list(self.pending)
        self.pending.clear()
        return taken

    def reset(self, checkpoints: Mapping[str, Position]) -> None:
        """Know only what is on disk; nothing is under way."""
        self.last = self.visible
        self._shelves.ids.forget_after(self.visible)
        self.heads = self._shelves.stored_heads()
        self.open = self._shelves.stored_open()
        self.checkpoints = dict(checkpoints)
        for kept in self._views.kept.values():
            kept.forget_pending()


def move(checkpoints: dict[str, Position], moved: Moved) -> None:
    subscriber, position = moved
    if position is None:
        checkpoints.pop(subscriber, None)
    else:
        checkpoints[subscriber] = position


def check_version(stream: str, expected: ExpectedVersion, actual: int) -> None:
    match expected:
        case StreamState.ANY:
            return
        case StreamState.NO_STREAM if actual == 0:
            return
        case StreamState.STREAM_EXISTS if actual > 0:
            return
        case int() if expected == actual:
            return
    wanted = expected.value if isinstance(expected, StreamState) else expected
    raise WrongExpectedVersionError(stream, expected=wanted, actual=actual)


def _same(entry: Entry, event: RecordedEvent, branch: str) -> bool:
    return (
        branch == event.branch
        and entry.stream == event.stream
        and entry.name == event.name
        and entry.data == event.raw
        and entry.kind == event.kind
        and entry.tags == event.tags
        and entry.schema_version == event.schema_version
        and entry.subject == event.subject
    )
