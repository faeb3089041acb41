"""What a request puts into the log: its own row, facts and emits, its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, ValidationError
from ksi.core.ports import Committed, Entry, Outcome, Unit
from ksi.core.threads import settle
from ksi.core.tracing import Measured
from ksi.kernel.context import EventContext
from ksi.kernel.effects import EFFECTS, READ
from ksi.kernel.request import Request

if TYPE_CHECKING:
    from ksi.kernel.rerun import History

Written = Callable[[Committed | None, KSIError | None], None]


class WritingRequest(Request):
    """A request that knows what of it is on disk."""

    def write(self, unit: Unit, done: Written) -> None:
        """Commit ``unit`` in the name of this request; its emits start when it is on disk.

        The request's own row, and those of its ancestors, go in front where they are not on disk yet: from then on
        they count as begun, unless the commit fails.
        """
        if self.parent is None and not self.opened:
            unit.request = self.opened = True
            done = _opening((self,), done)
        elif unopened := self._unopened():
            unit.request = unopened[-1] is self
            unit.ancestors = [each.envelope for each in unopened if each is not self]
            done = _opening(unopened, done)
        if self.history is not None:
            self._drop_recorded(unit, self.history)
        if self.parent is not None or unit.outcome is None:
            unit.entries = [*unit.entries, *self._unsaved_reads(closes=unit.outcome is not None)]
        if unit.emits:
            done = self._emitting(unit.emits, done)
        if self.measured is not None:
            done = measuring(self.measured, done)
        self.router.journal.write(unit, done)

    def _unopened(self) -> list[Request]:
        """This one and its ancestors, as far as they are not on disk, the outermost first. From now on they are."""
        found: list[Request] = []
        each: Request | None = self
        while each is not None:
            if each.is_recorded and not each.opened:
                each.opened = True
                found.append(each)
            each = each.parent
        found.reverse()
        return found

    def _unsaved_reads(self, *, closes: bool) -> list[Entry]:
        """What this one and its ancestors have read up to now; the outcome of one that ``closes`` says it by itself."""
        found = []
        each: Request | None = self.parent if closes else self
        while each is not None:
            data = None if each.reads is None or not each.is_recorded else each.reads.take_unsaved()
            if data is not None:
                entry = Entry(stream=EFFECTS, name=READ, kind="outcome", data=data, cause=each.envelope.event_id)
                found.append(entry)
            each = each.parent
        return found

    def _emitting(self, emits: list[EventEnvelope], done: Written) -> Written:
        """Start what was emitted, behind the answer."""

        def written(committed: Committed | None, error: KSIError | None) -> None:
            done(committed, error)
            if error is None:
                for envelope in emits:
                    self.router.recorded.start(envelope, self.session)

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

    def recover(self, history: History) -> None:
        """Mark as a rerun: its request is on disk already, and all that ``history`` tells."""
        self.opened = True
        self.history = history

    @staticmethod
    def _drop_recorded(unit: Unit, history: History) -> None:
        """A rerun says again what was committed before the crash: that much is left out, with what it stood under."""
        facts = [entry for entry in unit.entries if entry.kind == "fact" and _was_said(entry, history)]
        if facts:
            known = {entry.stream for entry in facts}
            unit.entries = [entry for entry in unit.entries if not any(entry is fact for fact in facts)]
            unit.expected = {stream: version for stream, version in unit.expected.items() if stream not in known}
        emits = [emit for emit in unit.emits if emit.event_id not in history.recorded.requested]
        if facts or len(emits) < len(unit.emits):
            unit.condition = unit.checkpoint = None
        unit.emits = emits


def _was_said(fact: Entry, history: History) -> bool:
    """By stream and name: several that say facts at the same time need not do it in the same order again."""
    is_known = history.facts[fact.stream, fact.name] > 0
    if is_known:
        history.facts[fact.stream, fact.name] -= 1
    return is_known


def measuring(measured: Measured, done: Written) -> Written:
    """``done`` as the end of a span, from now on."""
    began_us = measured.now()

    def written(committed: Committed | None, error: KSIError | None) -> None:
        measured.part("commit", began_us, error)
        done(committed, error)

    return written


def _opening(unopened: Sequence[Request], done: Written) -> Written:
    """Take back that they are on disk where they are not."""

    def written(committed: Committed | None, error: KSIError | None) -> None:
        if error is not None:
            for each in unopened:
                each.opened = False
        done(committed, error)

    return written


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
    facts = {"code": _code(error), "message": error.message, "details": error.details()}
    try:
        return canonical.encode(facts)
    except ValidationError:  # a plugin's own error may carry anything
        shown = {name: ascii(value) for name, value in error.details().items()}
        return canonical.encode({**facts, "message": ascii(error.message), "details": shown})


def _code(error: KSIError) -> str:
    return getattr(error, "remote_code", None) or error.code
