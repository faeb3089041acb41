"""What models have cost on one way of a run and on the other: tokens, and dollars."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from ksi.core.events import Filter, Position, RecordedEvent
from ksi.core.ports import EventLog

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


class _Sum:
    """Of some answers; money in micro-dollars."""

    def __init__(self, ended: Iterable[RecordedEvent]) -> None:
        self.tokens = self.micro = self.unpriced = 0
        for event in ended:
            self._add(event.data)

    def _add(self, ended: Any) -> None:
        usage, cost = ended["usage"], ended.get("cost")
        self.tokens += int(usage["input_tokens"]) + int(usage["output_tokens"])
        self.unpriced += cost is None
        self.micro += 0 if cost is None else round(cost * 1_000_000)


async def bill(log: EventLog, after: Position, inside: Collection[Position], old: str, new: str | None) -> Bill:
    """What was paid behind ``after`` on the branch ``old``, where the cone is ``inside``, and on ``new``, if any."""
    told = await _ended(log, after, old)
    before = _Sum(told)
    saved = _Sum(event for event in told if event.position not in inside)
    if new is None:
        return _bill(before, saved, 0, 0, 0)
    everything = _Sum(await _ended(log, after, new))  # what was kept is written down there too
    spent = everything.tokens - saved.tokens, everything.micro - saved.micro, everything.unpriced - saved.unpriced
    return _bill(before, saved, *spent)


def _bill(before: _Sum, saved: _Sum, tokens: int, micro: int, unpriced: int) -> Bill:
    spent, kept, old = (amount / 1_000_000 for amount in (micro, saved.micro, before.micro))
    return Bill(Tokens(tokens, saved.tokens, before.tokens), Cost(spent, kept, old, before.unpriced + unpriced))


async def _ended(log: EventLog, after: Position, branch: str) -> list[RecordedEvent]:
    return [event async for event in log.read_all(_ENDED, after=after, branch=branch) if not event.is_erased]
