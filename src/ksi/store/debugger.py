"""Questions about the past: what an entity was, which event made it so, and what was behind that event.

Nothing here writes, and nothing runs: state is folded from facts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from ksi.core.errors import BeyondHeadError, NotFoundError
from ksi.core.events import MAIN, Filter, Kind, Position, RecordedEvent
from ksi.core.patterns import matches
from ksi.core.ports import EventLog
from ksi.core.views import EntityFold, Fold
from ksi.store.folding import Folding
from ksi.store.structure import Difference, Path, differences, value_at

S = TypeVar("S")
Predicate = Callable[[Any], bool]
Method = Literal["scan", "bisect"]
CHAIN_MAX = 256
FACTS_SHOWN_MAX = 1000
"""Facts that are shown of an entity that nobody folds."""


class EntityState(msgspec.Struct, frozen=True):
    """What an entity was once ``event`` had happened: the last one that counts."""

    event: RecordedEvent
    state: Any


class Change(msgspec.Struct, Generic[S], frozen=True):
    """What ``event`` made of a state, and the number of states that were built, or asked about, to find it."""

    event: RecordedEvent
    before: S
    after: S
    states_built: int


class Blame(msgspec.Struct, frozen=True):
    """The event that last wrote a value, and why it happened: ``chain`` is from the first cause down to it."""

    change: Change[Any]
    chain: Sequence[RecordedEvent]


class Facts:
    """The fold of an entity for which no plugin has one: its last facts, and the fields that they said last."""

    def __init__(self, category: str) -> None:
        self.category = category

    def initial(self) -> dict[str, Any]:
        return {"latest": {}, "events": []}

    def apply(self, state: dict[str, Any], event: RecordedEvent) -> dict[str, Any]:
        data = event.data if isinstance(event.data, dict) else {"value": event.data}
        line = {"position": event.position, "name": event.name, "data": event.data}
        return {"latest": {**state["latest"], **data}, "events": [*state["events"], line][-FACTS_SHOWN_MAX:]}


class TimeTravelDebugger:
    """Asks one branch of a log.

    ``at`` and the like are positions, or moments (UTC-aware), which mean the last position recorded by then. All raise
    BeyondHeadError for a position that the log has not come to.

    Args:
        fold_of: How entities of a category are folded; None where no plugin says so.
    """

    def __init__(
        self, log: EventLog, fold_of: Callable[[str], EntityFold[Any] | None] = lambda _: None, *, branch: str = MAIN
    ) -> None:
        self._log = log
        self._fold_of = fold_of
        self._branch = branch

    # ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def entity_at(self, entity: str, at: Position | datetime | None = None) -> EntityState:
        """What ``entity`` (the name of its stream) was; now where nothing is said.

        Raises:
            NotFoundError: It had no facts then.
        """
        folding = self._folding(entity)
        await folding.to(await self._position(at))
        event = await self._log.at(folding.position, branch=self._branch) if folding.position else None
        if event is None:
            raise NotFoundError("entity", entity)
        return EntityState(event, folding.state)

    async def state_at(self, fold: Fold[S], at: Position | datetime | None = None) -> S:
        """What ``fold`` makes of all that it asks for; up to now where nothing is said."""
        folding = self._folding(fold)
        await folding.to(await self._position(at))
        state: S = folding.state
        return state

    def _folding(self, of: Fold[Any] | str) -> Folding[Any]:
        if not isinstance(of, str):
            return Folding(self._log, of, of.name, of.query, self._branch)
        fold = self._fold(of)
        name = f"{type(fold).__qualname__} {of}"  # a plugin may come with a fold of its own
        return Folding(self._log, fold, name, (Filter(streams=(of,), kinds=_kinds(fold)),), self._branch)

    async def snapshot(self, of: Fold[Any] | str, at: Position | datetime | None = None) -> Position:
        """Keep what a fold, or the entity of that name, was then, for questions to come; the position that it is of.

        It is 0 where there was nothing. Reads leave snapshots by themselves; this is for what is asked about often.
        """
        folding = self._folding(of)
        await folding.to(await self._position(at))
        folding.keep()
        return folding.position

    async def wrong_snapshots(self, of: Fold[Any] | str) -> list[Position]:
        """Snapshots that are not what is made of the events today, as when a fold was changed and not its version."""
        return await self._folding(of).wrong_snapshots()

    async def changes(self, entity: str, *, until: Position | datetime | None = None) -> AsyncIterator[Change[Any]]:
        """What each event of ``entity`` made of it, in order."""
        fold = self._fold(entity)
        state, built = fold.initial(), 0
        async for event in self.time_travel(entity, until):
            if _counts(event, fold):
                before, state, built = state, fold.apply(state, event), built + 1
                yield Change(event, before, state, built)

    async def time_travel(self, stream: str, at: Position | datetime | None) -> AsyncIterator[RecordedEvent]:
        """The events of ``stream`` up to ``at``, of all kinds; None: all of them."""
        end = await self._position(at)
        async for event in self._log.read_stream(stream, branch=self._branch):
            if end is not None and event.position > end:
                return
            yield event

    async def diff(
        self, entity: str, before: Position | datetime, after: Position | datetime | None = None
    ) -> list[Difference]:
        """How ``entity`` differs between two moments; one that has no facts yet is what its fold begins with."""
        return differences(await self._state_or_initial(entity, before), await self._state_or_initial(entity, after))

    async def reconstruct_state(self, at: Position | datetime, *, pattern: str = "*") -> Mapping[str, Any]:
        """All entities whose names fit ``pattern`` as they were at one moment: a consistent cut through the log."""
        states: dict[str, Any] = {}
        cut = self._log.read_all(_EVERYTHING, until=await self._position(at), branch=self._branch)
        async for event in cut:
            if event.stream.startswith("$") or not matches(pattern, event.stream):
                continue
            fold = self._fold(event.stream)
            if _counts(event, fold):
                before = states[event.stream] if event.stream in states else fold.initial()
                states[event.stream] = fold.apply(before, event)
        return states

    # ── which event ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def blame(self, entity: str, path: Path, at: Position | datetime | None = None) -> Blame:
        """The event that last changed the value at ``path``.

        Raises:
            NotFoundError: The entity has no facts, or none of them wrote there.
        """
        found: Change[Any] | None = None
        exists = False
        async for change in self.changes(entity, until=at):
            exists = True
            before, after = value_at(change.before, path), value_at(change.after, path)
            if before is not after and before != after:
                found = Change(change.event, before, after, change.states_built)
        if found is None:
            raise NotFoundError("value" if exists else "entity", ".".join(map(str, path)) if exists else entity)
        return Blame(found, await self.chain(found.event))

    async def find_state_change(
        self,
        fold: Fold[S],
        predicate: Callable[[S], bool],
        *,
        after: Position | None = None,
        until: Position | None = None,
        method: Method = "scan",
    ) -> Change[S] | None:
        """The event after which ``predicate`` holds, and before which it did not.

        A scan finds the first one. ``bisect`` asks the predicate less often, and is right only where it changes once.
        """
        state = fold.initial()
        events: list[RecordedEvent] = []
        async for event in self._log.read_all(fold.query, until=until, branch=self._branch):
            if event.is_erased:
                continue
            if after is not None and event.position <= after:
                state = fold.apply(state, event)
            else:
                events.append(event)
        return _flip(_folded(fold, state, events), predicate, method)

    async def bisect(self, run: str, predicate: Predicate, *, method: Method = "scan") -> Change[Any] | None:
        """The event of ``run`` after which ``predicate`` holds for the entity that it belongs to, and not before."""
        found: list[Change[Any]] = []
        for entity, (first, last) in (await self._touched(run)).items():
            # Other runs may write in between: only what this one's own events changed counts.
            own = [change async for change in self.changes(entity, until=last) if _is_of(run, first, change.event)]
            change = _flip(own, predicate, method)
            found += [] if change is None else [change]
        return min(found, key=lambda change: change.event.position, default=None)

    async def _touched(self, run: str) -> dict[str, tuple[Position, Position]]:
        """The entities that ``run`` wrote to, each with the positions of its first and its last event there."""
        touched: dict[str, tuple[Position, Position]] = {}
        query = (Filter(correlation_id=run, kinds=("fact", "chunk")),)
        async for event in self._log.read_all(query, branch=self._branch):
            if not event.stream.startswith("$"):
                first, _ = touched.get(event.stream, (event.position, event.position))
                touched[event.stream] = (first, event.position)
        return touched

    # ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def chain(self, event: RecordedEvent) -> list[RecordedEvent]:
        """``event`` with what caused it, what caused that, and so on; the first cause comes first."""
        found = [event]
        while found[-1].causation_id is not None and len(found) < CHAIN_MAX:
            cause = await self._log.get(found[-1].causation_id, branch=self._branch)
            if cause is None:
                break
            found.append(cause)
        return found[::-1]

    # ── its own ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _fold(self, entity: str) -> EntityFold[Any]:
        category = entity.partition("/")[0]
        return self._fold_of(category) or Facts(category)

    async def _state_or_initial(self, entity: str, at: Position | datetime | None) -> Any:
        try:
            return (await self.entity_at(entity, at)).state
        except NotFoundError:
            return self._fold(entity).initial()

    async def _position(self, at: Position | datetime | None) -> Position | None:
        if isinstance(at, datetime):
            return await self._log.position_at(at, branch=self._branch) or Position(0)
        if at is not None:
            await check_reached(self._log, at, branch=self._branch)
        return at


async def check_reached(log: EventLog, at: Position, *, branch: str = MAIN) -> None:
    """Raises BeyondHeadError where nothing has the position ``at`` yet, on any branch: they share their order."""
    if at <= (await log.head(branch=branch) or 0):
        return
    head = max(info.head or 0 for info in await log.branches())
    if at > head:
        raise BeyondHeadError(at, head=head)


_EVERYTHING = (Filter(kinds=("fact", "chunk")),)


def _kinds(fold: EntityFold[Any]) -> tuple[Kind, ...]:
    """A fold may say that chunks belong to its entity too, as the tokens of a completion do."""
    kinds: tuple[Kind, ...] = getattr(fold, "kinds", ("fact",))
    return kinds


def _counts(event: RecordedEvent, fold: EntityFold[Any]) -> bool:
    return event.kind in _kinds(fold) and not event.is_erased


def _is_of(run: str, first: Position, event: RecordedEvent) -> bool:
    return event.position >= first and event.correlation_id == run


def _folded(fold: Fold[S], state: S, events: Iterable[RecordedEvent]) -> Iterator[Change[S]]:
    for built, event in enumerate(events, 1):
        before, state = state, fold.apply(state, event)
        yield Change(event, before, state, built)


def _flip(changes: Iterable[Change[S]], predicate: Callable[[S], bool], method: Method) -> Change[S] | None:
    return _scanned(changes, predicate) if method == "scan" else _bisected(list(changes), predicate)


def _scanned(changes: Iterable[Change[S]], predicate: Callable[[S], bool]) -> Change[S] | None:
    for asked, change in enumerate(changes, 1):
        if predicate(change.after) and not predicate(change.before):
            return Change(change.event, change.before, change.after, asked)
    return None


def _bisected(changes: Sequence[Change[S]], predicate: Callable[[S], bool]) -> Change[S] | None:
    """The one flip of a predicate that changes at most once."""
    if not changes or predicate(changes[0].before) or not predicate(changes[-1].after):
        return None
    low, high, asked = 0, len(changes) - 1, 2
    while low < high:
        middle = (low + high) // 2
        asked += 1
        if predicate(changes[middle].after):
            high = middle
        else:
            low = middle + 1
    found = changes[low]
    return Change(found.event, found.before, found.after, asked)
