"""A query, compiled: a predicate on events, and the keys by which candidates are found.

Keys are tagged texts: ``s:`` stream, ``c:`` category, ``n:`` name of a fact, ``q:`` name of a request, ``t:`` tag,
``r:`` run, ``e:`` cause. A key finds rows, not events: the predicate decides. Other keys than those of :data:`INDEX`
are on disk where an older KSI wrote them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from ksi.core import ids
from ksi.core.clock import microseconds
from ksi.core.envelope import EventEnvelope
from ksi.core.events import FAILED, MAIN, ROOT, Filter, Kind, Query, RecordedEvent
from ksi.core.patterns import any_matches, expand, matcher
from ksi.store.row import REQUESTS, Line, Row
from ksi.store.sight import MAIN_ONLY, Sight, marked_key

INDEX = 2
"""Number of the set of keys that rows have; raise it when :func:`keys_of` changes: the keys are then written anew."""
KINDS: tuple[Kind, ...] = ("fact", "request", "outcome", "chunk")
Predicate = Callable[[RecordedEvent], bool]
ALL_FACTS = Filter()


class Wanted(Protocol):
    """What a cursor looks for. ``lines_only``: no request and no outcome can match; ``is_named``: nothing but facts."""

    lines_only: bool
    is_named: bool

    def may_be(self, name: str) -> bool:
        """Whether a fact of this name could match."""

    def chosen(self, events: list[RecordedEvent], /) -> list[RecordedEvent]:
        """Those that match."""

    def keys(self, names: Callable[[], Sequence[str]]) -> list[str] | None:
        """Keys whose rows hold every match; None: every row must be looked at. ``names`` are all event names seen."""


class Compiled:
    """A whole query."""

    def __init__(self, query: Query, sight: Sight = MAIN_ONLY) -> None:
        self._sight = sight
        self.filters = tuple(query) or (ALL_FACTS,)
        self.kinds = frozenset(kind for one in self.filters for kind in one.kinds)
        self.lines_only = self.kinds <= {"fact", "chunk"}
        self.is_named = self.kinds <= {"fact"}
        self._kinds_only = all(one == Filter(kinds=one.kinds) for one in self.filters)
        self.names_only = all(one == Filter(names=one.names) for one in self.filters)
        predicates = [_predicate(one) for one in self.filters]
        self.matches = predicates[0] if len(predicates) == 1 else _any(predicates)

    def chosen(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        kinds, events = self.kinds, self._sight.chosen(events)
        if len(kinds) < len(KINDS):
            events = [event for event in events if event.kind in kinds]
        if self._kinds_only:
            return events
        matches = self.matches
        return [event for event in events if matches(event)]

    def may_be(self, name: str) -> bool:
        return any("fact" in one.kinds and (not one.names or any_matches(one.names, name)) for one in self.filters)

    def keys(self, names: Callable[[], Sequence[str]]) -> list[str] | None:
        found: list[str] = []
        for one in self.filters:
            keys = _keys_of(one, lambda: self._sight.names(names()))
            if keys is None:
                return None
            found += keys
        return self._sight.keys(list(dict.fromkeys(found)))


def _any(predicates: Sequence[Predicate]) -> Predicate:
    return lambda event: any(predicate(event) for predicate in predicates)


class StreamRange:
    """Events of one stream with ``low <= version <= high`` (None: no end), of all kinds."""

    lines_only = True
    is_named = False

    def __init__(self, stream: str, low: int, high: int | None, sight: Sight = MAIN_ONLY) -> None:
        self._sight = sight
        self._stream = stream
        self._low = low
        self._high = high

    def chosen(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        stream, low = self._stream, self._low
        high = sys.maxsize if self._high is None else self._high
        found = [event for event in events if event.stream == stream and low <= event.version <= high]
        return self._sight.chosen(found)

    def may_be(self, name: str) -> bool:
        return True

    def keys(self, names: Callable[[], Sequence[str]]) -> list[str] | None:
        return self._sight.keys(["s:" + self._stream])


def _predicate(one: Filter) -> Predicate:
    """One test after the other, the cheap and selective first."""
    tests: list[Predicate] = []
    if set(one.kinds) != set(KINDS):
        tests.append(_is_kind(one.kinds))
    if one.names:
        is_name = _fits(one.names)
        tests.append(lambda event: is_name(event.name))
    if one.streams:
        is_stream = _fits(one.streams)
        tests.append(lambda event: is_stream(event.stream))
    if one.tags:
        tests.append(lambda event: one.tags <= event.tags)
    if one.correlation_id is not None:
        tests.append(lambda event: event.correlation_id == one.correlation_id)
    if one.causation_id is not None:
        cause = one.causation_id.bytes
        tests.append(lambda event: event.cause == cause)
    tests += _times(one)
    return tests[0] if len(tests) == 1 else lambda event: all(test(event) for test in tests)


def _fits(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a text fits one of ``patterns``."""
    if not _globs(patterns):
        return frozenset(patterns).__contains__
    return matcher(patterns[0]) if len(patterns) == 1 else lambda text: any_matches(patterns, text)


def _is_kind(kinds: Sequence[Kind]) -> Predicate:
    if len(kinds) == 1:
        only = kinds[0]
        return lambda event: event.kind == only
    return lambda event: event.kind in kinds


def _times(one: Filter) -> Iterator[Predicate]:
    if one.recorded_from is not None:
        start = microseconds(one.recorded_from)
        yield lambda event: event.recorded_us >= start
    if one.recorded_to is not None:
        end = microseconds(one.recorded_to)
        yield lambda event: event.recorded_us < end


def _keys_of(one: Filter, names: Callable[[], Sequence[str]]) -> list[str] | None:
    """The most selective keys that every match of ``one`` has."""
    if one.streams and not _globs(one.streams) and REQUESTS not in one.streams:
        return [f"s:{stream}" for stream in one.streams]
    if "chunk" not in one.kinds:
        if one.correlation_id is not None:
            return [f"r:{one.correlation_id}"]
        if one.causation_id is not None:
            return [f"e:{one.causation_id}"]
        if one.tags:
            return [f"t:{min(one.tags)}"]
        if one.names:
            return _keys_of_names(one, names() if _globs(one.names) else one.names)
    if set(one.kinds) == {"fact"} and one.streams and all(_is_category(expand(glob)) for glob in one.streams):
        return [f"c:{glob.partition('/')[0]}" for glob in one.streams]
    return None


def _keys_of_names(one: Filter, names: Sequence[str]) -> list[str]:
    tags = ["n:"] if "fact" in one.kinds else []
    if len(one.kinds) > len(tags):
        tags.append("q:")
    return [tag + name for name in names if any_matches(one.names, name) for tag in tags]


def _globs(patterns: Sequence[str]) -> bool:
    return any("*" in expand(glob) or "?" in glob for glob in patterns)


def _is_category(glob: str) -> bool:
    category, slash, rest = glob.partition("/")
    return bool(slash) and rest == "*" and not _globs([category])


# ── what a row is found by ───────────────────────────────────────────────────────────────────────────────────────────
def own_of(row: Row) -> list[bytes]:
    """Requests that the row records or closes. The index of ids leads from them to the row: no key is needed."""
    found = [row.origin.event_id] if row.recorded or row.closing is not None else []
    if row.ancestors or row.emits:
        found += [request.event_id for request in (*row.ancestors, *row.emits)]
    return found


def keys_of(row: Row) -> Sequence[str]:
    """Keys of ``row``: requests, outcomes and effects have name, run and cause, chunks the stream, facts every one."""
    found: list[str] = []
    origin = row.origin
    own = row.recorded or row.closing is not None
    if own:
        found += _keys_of_request(origin, recorded=row.recorded)
    if row.closing is not None and not row.closing.ok:
        found.append("t:" + FAILED)
    for request in (*row.ancestors, *row.emits) if row.ancestors or row.emits else ():
        found += _keys_of_request(request, recorded=True)
    for line in row.lines:
        found += _keys_of_line(line.stream, line.name, line.kind)
        if line.tags:
            found += ["t:" + tag for tag in line.tags]
        if line.kind != "chunk" and not (own and _follows(line, origin)):
            found += _links(line.correlation_id, line.cause)
    if origin.branch != MAIN:
        found = [marked_key(key, origin.branch) for key in found]
    return list(dict.fromkeys(found))


def _keys_of_request(request: EventEnvelope, *, recorded: bool) -> list[str]:
    found = ["q:" + request.name]
    if recorded and request.cause is None:
        found.append("t:" + ROOT)
    run, cause = request.correlation, request.cause
    if run is not None and run == ids.text(request.event_id):
        run = None  # an envelope that was asked for its run says its own id: that leads to it anyway
    return found + _links(run, cause) if run or cause else found


@lru_cache(maxsize=4096)
def _keys_of_line(stream: str, name: str, kind: Kind) -> tuple[str, ...]:
    match kind:
        case "fact":
            return "s:" + stream, "n:" + name, "c:" + stream.partition("/")[0]
        case "chunk":
            return ("s:" + stream,)
    return "s:" + stream, "q:" + name


def _follows(line: Line, origin: EventEnvelope) -> bool:
    """Whether run and cause of ``line`` are those that ``origin`` stands for."""
    return line.cause == origin.event_id and (line.run is None or line.run == origin.correlation)


def _links(correlation: str | None, cause: bytes | None) -> list[str]:
    found = ["r:" + correlation] if correlation else []
    return found if cause is None else [*found, "e:" + ids.text(cause)]
