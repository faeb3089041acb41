"""What models have cost on one way of a run and on the other: tokens, and dollars."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import reduce
from operator import add, sub
from typing import Any, NamedTuple

import msgspec

from ksi.core.events import Filter, Position, RecordedEvent
from ksi.core.ports import EventLog
from ksi.kernel.effects import COMPLETED, EFFECTS, FROM_EARLIER

_ENDED = (Filter(names=("completion:finished", "completion:interrupted")),)


class Tokens(msgspec.Struct, frozen=True):
    """Of language models: ``spent`` on the branch, ``saved`` by what was kept, ``before`` what the old way had cost."""

    spent: int
    saved: int
    before: int


class Cost(msgspec.Struct, frozen=True):
    """The same in dollars, by the prices that were known when each answer was given.

    ``unpriced``: answers of models whose price nobody knew; they are not in the sums.
    """

    spent: float
    saved: float
    before: float
    unpriced: int


class Bill(msgspec.Struct, frozen=True):
    tokens: Tokens
    cost: Cost


class _Sum(NamedTuple):
    """Of some answers; money in micro-dollars."""

    tokens: int = 0
    micro: int = 0
    unpriced: int = 0

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(*map(add, self, other))

    def minus(self, other: _Sum) -> _Sum:
        return _Sum(*map(sub, self, other))


def _sum(ended: Iterable[RecordedEvent]) -> _Sum:
    return reduce(_Sum.plus, (_paid(event.data) for event in ended), _Sum())


def _paid(ended: Any) -> _Sum:
    usage, cost = ended["usage"], ended.get("cost")
    micro = 0 if cost is None else round(cost * 1_000_000)
    return _Sum(int(usage["input_tokens"]) + int(usage["output_tokens"]), micro, int(cost is None))


async def bill(log: EventLog, after: Position, inside: Collection[Position], old: str, new: str | None) -> Bill:
    """What was paid behind ``after`` on the branch ``old``, where the cone is ``inside``, and on ``new``, if any."""
    told = await _ended(log, after, old)
    before, kept = _sum(told), _sum(event for event in told if event.position not in inside)
    if new is None:
        return _bill(before, kept, _Sum())
    told_again, served = await _ended(log, after, new), await _served(log, after, new)
    saved = _sum(event for event in told_again if event.cause in served).plus(kept)
    # What was kept is written down there too.
    spent = _sum(event for event in told_again if event.cause not in served).minus(kept)
    return _bill(before, saved, spent)


def _bill(before: _Sum, saved: _Sum, spent: _Sum) -> Bill:
    tokens = Tokens(spent.tokens, saved.tokens, before.tokens)
    now, kept, old = (total.micro / 1_000_000 for total in (spent, saved, before))
    return Bill(tokens, Cost(now, kept, old, before.unpriced + spent.unpriced))


async def _served(log: EventLog, after: Position, branch: str) -> Collection[bytes | None]:
    """Requests whose answer was that of an earlier run."""
    completed = (Filter(names=(COMPLETED,), streams=(EFFECTS,), kinds=("outcome",)),)
    effects = log.read_all(completed, after=after, branch=branch)
    return {event.cause async for event in effects if not event.is_erased and FROM_EARLIER in event.data}


async def _ended(log: EventLog, after: Position, branch: str) -> list[RecordedEvent]:
    return [event async for event in log.read_all(_ENDED, after=after, branch=branch) if not event.is_erased]
