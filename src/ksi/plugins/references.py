"""What clients call events and runs: a full id, a unique beginning of one, ``@1234``, ``last``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.errors import AmbiguousError, NotFoundError, ValidationError
from ksi.core.events import FAILED, MAIN, ROOT, Filter, Kind, Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.plugins.shapes import position

_BLOCK = "[0-9a-fA-F]"
_BEGINNING = (
    f"{_BLOCK}{{8}}"
    f"(-{_BLOCK}{{0,4}}|(-{_BLOCK}{{4}}){{1,3}}(-{_BLOCK}{{0,4}})?|(-{_BLOCK}{{4}}){{3}}-{_BLOCK}{{0,12}})?"
)
EventReference = Annotated[
    str,
    Meta(
        description="an event's id, a unique beginning of it, or @1234",
        extra_json_schema={"pattern": f"^(@[0-9]{{1,18}}|{_BEGINNING})$"},
    ),
]
"""The pattern is only said: :func:`find_event` refuses with better words."""
RunReference = Annotated[str, Meta(description="its id, a unique beginning of it or of one of its events, @1234, last")]
DIGITS_MIN = 8
"""Hexadecimal digits that a beginning needs: they are 65 s of a UUIDv7's time, which says where to look."""
DIGITS_OF_TIME = 12
LOOKED_AT_MAX = 10_000
"""Events that are looked at for the rest of an id."""
SKEW_US = 1_000_000
ALL: tuple[Kind, ...] = ("fact", "request", "outcome", "chunk")
LINKED: tuple[Kind, ...] = ("fact", "request", "outcome")
"""All that has a run; chunks are counted, not listed."""
ROOTS = (Filter(kinds=("request",), tags=frozenset({ROOT})),)
"""The requests that began a run, or go on with one: nothing caused them."""
FAILURES = (Filter(kinds=("outcome",), tags=frozenset({FAILED})),)
"""The outcomes that are errors."""


async def find_event(log: EventLog, reference: str, *, branch: str = MAIN) -> RecordedEvent:
    """The event that a client means.

    Raises:
        NotFoundError: There is none.
        AmbiguousError: Several ids begin like that.
        ValidationError: It is no reference, or a beginning that is too short.
    """
    if reference.startswith("@"):
        event = await log.at(position(reference), branch=branch)
    elif len(reference) == len(str(UUID(int=0))):
        event = await log.get(UUID(bytes=ids.parse(reference)), branch=branch)
    else:
        event = await _find_by_beginning(log, reference, branch)
    if event is None:
        raise NotFoundError("event", reference)
    return event


async def find_run(log: EventLog, reference: str, *, branch: str = MAIN, but: str | None = None) -> str:
    """The run (its correlation id) that a client means: also by the reference of any of its events.

    ``but`` is the run of who asks, where that is recorded: it is not what they mean by ``last``.

    Raises:
        NotFoundError: There is none. A run may have any name, so no reference is wrong.
        AmbiguousError: Several ids begin like that.
    """
    if reference == "last":
        return await _last_run(log, branch, but)
    async for event in log.read_all(
        (Filter(correlation_id=reference, kinds=LINKED),), limit=1, branch=branch, envelopes=True
    ):
        return event.correlation_id or reference
    try:
        event = await find_event(log, reference, branch=branch)
    except (NotFoundError, ValidationError):
        raise NotFoundError("run", reference) from None
    if event.correlation_id is None:
        raise NotFoundError("run", reference)
    return event.correlation_id


async def _last_run(log: EventLog, branch: str, but: str | None) -> str:
    async for event in log.read_all(ROOTS, backwards=True, branch=branch):
        if event.correlation_id not in (None, but):
            return event.correlation_id
    raise NotFoundError("run", "last")


async def _find_by_beginning(log: EventLog, beginning: str, branch: str) -> RecordedEvent | None:
    """The one event whose id begins so, among those recorded from the time on that the id names."""
    start = await log.position_at(utc(_time_of(beginning)), branch=branch)
    place = start or Position(0)
    recorded = log.read_all((Filter(kinds=ALL),), after=place, limit=LOOKED_AT_MAX, branch=branch, envelopes=True)
    found = [event async for event in recorded if str(event.event_id).startswith(beginning.lower())]
    if len(found) > 1:
        raise AmbiguousError("event", beginning, [str(event.event_id) for event in found])
    return found[0] if found else None


def _time_of(beginning: str) -> int:
    """Microseconds since 1970 before which nothing with such an id was recorded."""
    digits = beginning.replace("-", "")
    try:
        if len(digits) < DIGITS_MIN:
            raise ValueError
        number = int(digits[:DIGITS_OF_TIME].ljust(DIGITS_OF_TIME, "0"), 16)
    except ValueError:
        message = f"{beginning!r} names nothing: write @1234, an id, or at least {DIGITS_MIN} digits of its beginning"
        raise ValidationError(message) from None
    # The top five bits of an id count the events of one row, see ids.nth_of.
    return max(0, (number & ((1 << 43) - 1)) * 1000 - SKEW_US)
