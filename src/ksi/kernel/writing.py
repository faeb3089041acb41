"""What a request puts into the log: its own row, facts and emits, its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.ports import Committed, Outcome, Unit
from ksi.core.threads import settle
from ksi.kernel.context import EventContext
from ksi.kernel.request import Request

Written = Callable[[Committed | None, KSIError | None], None]


class WritingRequest(Request):
    """A request that knows what of it is on disk."""

    def write(self, unit: Unit, done: Written) -> None:
        """Commit ``unit`` in the name of this request; its emits start when it is on disk.

        The request's own row, and those of its ancestors, go in front where they are not on disk yet: from then on
        they count as begun.
        """
        opens = unit.request = not self.opened
        if self.parent is not None:
            unit.ancestors = self._unopened_ancestors()
        if self.is_rerun:
            self._drop_recorded(unit)
        unit.ordinal = self.ordinal
        self.ordinal += len(unit.entries)
        if unit.outcome is None:
            self.opened = True
            done = self._opening(opens, done)
        else:
            self.ordinal += 1
        if unit.emits:
            done = self._emitting(unit.emits, done)
        self.router.journal.write(unit, done)

    def _opening(self, opens: bool, done: Written) -> Written:
        """Take back that the request is on disk where it is not."""

        def written(committed: Committed | None, error: KSIError | None) -> None:
            if error is not None and opens:
                self.opened = False
            done(committed, error)

        return written

    def _emitting(self, emits: list[EventEnvelope], done: Written) -> Written:
        """Start what was emitted, behind the answer."""

        def written(committed: Committed | None, error: KSIError | None) -> None:
            done(committed, error)
            if error is None:
                for envelope in emits:
                    self.router.start_recorded(envelope, self.session)

        return written

    async def written(self, unit: Unit) -> Committed:
        """Commit ``unit`` and wait until it is acknowledged. A cancel does not take it back."""
        future: asyncio.Future[Committed | None] = self.router.loop.create_future()
        self.write(unit, lambda committed, error: settle(future, committed, error))
        committed = await future
        assert committed is not None
        return committed

    async def commit(self, context: EventContext) -> None:
        """Put on disk what ``context`` has buffered."""
        unit = Unit(origin=self.envelope)
        gather(unit, context)
        await self.written(unit)

    def outcome(self, raw: bytes | None, error: KSIError | None) -> Outcome:
        """How the request ended, with what it read."""
        metadata = None if self.reads is None else self.reads.as_metadata()
        if error is None:
            return Outcome(True, raw or b"{}", metadata)
        return Outcome(False, error_json(error), metadata)

    def recover(self, *, facts: int) -> Self:
        """Mark as a rerun: its request is on disk already, and ``facts`` of its facts are."""
        self.opened = self.is_rerun = True
        self.skip = facts
        self.ordinal = 1 + facts
        return self

    def _unopened_ancestors(self) -> list[EventEnvelope]:
        above: list[EventEnvelope] = []
        request = self.parent
        while request is not None:
            if request.is_recorded and not request.opened:
                request.opened = True
                above.append(request.envelope)
            request = request.parent
        above.reverse()
        return above

    def _drop_recorded(self, unit: Unit) -> None:
        """A rerun says again what was committed before the crash: that much is left out."""
        if self.skip:
            facts = [entry for entry in unit.entries if entry.kind == "fact"][: self.skip]
            self.skip -= len(facts)
            unit.entries = [entry for entry in unit.entries if not any(entry is fact for fact in facts)]
        if self.is_rerun and unit.emits:
            recorded = self.router.recorded_effects.get(self.envelope.event_id)
            requested = set() if recorded is None else recorded.requested
            unit.emits = [emit for emit in unit.emits if emit.event_id not in requested]


def gather(unit: Unit, context: EventContext) -> None:
    """Move what ``context`` has buffered into ``unit``."""
    if context.entries:
        unit.entries = unit.entries + context.entries if unit.entries else context.entries
        context.entries = None
    if context.emits:
        unit.emits = unit.emits + context.emits
        context.emits = None
    if context.expected:
        unit.expected = {**unit.expected, **context.expected}
        context.expected = None


def error_json(error: KSIError) -> bytes:
    """``{"code", "message", "details"}``, as the wire and the log have it."""
    return canonical.encode({"code": _code(error), "message": error.message, "details": error.details()})


def _code(error: KSIError) -> str:
    return getattr(error, "remote_code", None) or error.code
