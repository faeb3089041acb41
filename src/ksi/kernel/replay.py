"""Replay of a run: every handler runs again, is served all that is recorded, and must say the same again.

Each recorded request is repeated by itself, in the order in which they ended: its effects, reads, nested requests and
the chunks of nested streams come out of the log. Where each of them, given the same, says the same, so does the run.
What a handler reads besides is read as it stood when its request ended.

Nothing can happen: the journal writes nothing, and the gateway lets no effect through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import msgspec

from ksi.core import canonical, ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import (
    KSIError,
    NoHandlerError,
    NotFoundError,
    OutcomeUnknownError,
    ReplayDivergenceError,
    ReplayError,
    ReplayUnhandledError,
    UnknownEventError,
)
from ksi.core.events import MAIN, Filter, Position
from ksi.core.ports import Committed, Done, Journal, Known, Outcome, Unit
from ksi.core.threads import settle
from ksi.kernel.attempt import REQUESTS, Attempt
from ksi.kernel.effects import NOW
from ksi.kernel.execution import Execution
from ksi.kernel.filled import Fill
from ksi.kernel.joining import UNLIMITED
from ksi.kernel.plugins import Plugins
from ksi.kernel.rerun import caused_by
from ksi.kernel.router import Router
from ksi.kernel.streaming import Streaming
from ksi.kernel.writing import error_json

_MOMENT = timedelta(microseconds=1)
KEPT = "kept"
"""In the metadata of an outcome: the id of the request that was run, where this one only says what had come of it."""


class Replayed(msgspec.Struct, frozen=True):
    """A run that said the same again. Numbers of what was repeated and served; ``cut_off`` ended from outside."""

    run: str
    requests: int
    facts: int
    chunks: int
    effects: int
    cut_off: int


class PastJournal(Journal, Protocol):
    """A journal of what was."""

    position: Position
    """Nothing behind it is seen; it may be moved."""


class Replay:
    """Stands between a kernel and the log that it repeats: a journal, a gateway of effects, and a clock that stands.

    Make a kernel with it as all three, and start that; then :meth:`run`. ``begins`` is told each :attr:`owner` before
    its handler runs.
    """

    owner = "nobody"
    """The plugin whose handler is repeated."""
    seals = has_subjects = False
    """It writes nothing, so nobody need know whose it would be."""

    def __init__(self, past: PastJournal, begins: Callable[[str], None] = lambda _: None) -> None:
        self._past = past
        self._begins = begins
        self._attempt: Attempt | None = None
        self._router: Router | None = None
        self._silenced: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._past, name)  # all of the journal that is not spoken of here

    async def run(self, router: Router, run: str, *, branch: str = MAIN) -> Replayed:
        """Repeat the requests of ``run`` (a correlation id), as it went on ``branch``.

        Raises:
            ReplayDivergenceError: The first difference in the order of the log.
            ReplayUnhandledError: Nobody is there to handle one of them.
            NotFoundError: There is no such run.
        """
        self._router = router
        attempts = await self._attempts(run, branch)
        _check_handled(router, attempts)
        for attempt in attempts:
            await self._repeat(router, attempt)
        divergences = [attempt.divergence for attempt in attempts if attempt.divergence is not None]
        if divergences:
            raise min(divergences, key=lambda divergence: divergence.position)
        facts, chunks, effects = (sum(each) for each in zip(*(attempt.numbers for attempt in attempts), strict=True))
        return Replayed(run, len(attempts), facts, chunks, effects, sum(attempt.is_cut_off for attempt in attempts))

    async def _attempts(self, run: str, branch: str) -> Sequence[Attempt]:
        self._past.position = _EVERYTHING
        attempts = [attempt async for attempt in self._recorded(run, branch)]
        if not attempts:
            raise NotFoundError("run", run)
        return sorted(attempts, key=_end_of)

    async def _recorded(self, run: str, branch: str) -> AsyncIterator[Attempt]:
        requests = (Filter(correlation_id=run, kinds=("request",)),)
        async for event in self._past.read_all(requests, branch=branch):
            if event.is_erased:
                raise ReplayError(f"a part of the run was erased, as the request @{event.position}")
            known = await self._past.find(event.event_id.bytes) if event.stream == REQUESTS else None
            if known is None:
                continue
            kept = None if known.outcome is None else (known.outcome.metadata or {}).get(KEPT)
            if kept is None:
                yield await self._attempt_of(known, branch)
            else:
                async for attempt in self._original(ids.parse(kept)):
                    yield attempt

    async def _attempt_of(self, known: Known, branch: str) -> Attempt:
        assert self._router is not None
        caused = caused_by(self._router, known.request)
        return Attempt(known, [each async for each in self._past.read_all(caused, branch=branch)], self._fill_of)

    def _fill_of(self, kind: str, name: str) -> Fill | None:
        """How a fact, a chunk or an answer of today's type gets the fields that it lacks."""
        assert self._router is not None
        if kind == "fact":
            found = self._router.services.get(Plugins).facts.newest().get(name)
            return None if found is None else partial(_filled, msgspec.json.Decoder(found[1]).decode)
        row = self._router.table.get(name)
        codec = None if row is None else row.spec.chunk if kind == "chunk" else row.spec.answer
        return None if codec is None else lambda raw: codec.encode(codec.decode(raw))

    async def _original(self, event_id: bytes) -> AsyncIterator[Attempt]:
        """The request that was run, and what it had requested, where that was: who keeps it copies what came of it."""
        original = await self._past.find(event_id)
        if original is None:
            raise NotFoundError("request", ids.text(event_id))
        branch, below = original.request.branch, {event_id}
        requests = (Filter(correlation_id=original.request.correlation_id, kinds=("request",), streams=(REQUESTS,)),)
        async for event in self._past.read_all(requests, branch=branch):
            known = await self._past.find(event.id) if event.id in below or event.cause in below else None
            if known is not None:
                below.add(event.id)
                yield await self._attempt_of(known, branch)

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _repeat(self, router: Router, attempt: Attempt) -> None:
        self._past.position = _EVERYTHING
        self._past.position = await self._last_seen(attempt)
        self._attempt = attempt
        try:
            execution = router.recorded.execution_of(Known(attempt.envelope, attempt.position, None), attempt.history)
        except KSIError as error:  # refused, as it may have been when it was recorded
            attempt.take(Unit(origin=attempt.envelope, outcome=Outcome(False, error_json(error))))
            return
        await self._run(router, execution, attempt)

    async def _last_seen(self, attempt: Attempt) -> Position:
        """Up to where it could read: what was in the log before the commit that ended it."""
        if attempt.outcome is None:
            return _EVERYTHING
        if (read_at := attempt.outcome.metadata.get("reads_at")) is not None:
            return Position(read_at)
        found = await self._past.position_at(attempt.outcome.recorded_at - _MOMENT, branch=attempt.envelope.branch)
        return found or Position(0)

    async def _run(self, router: Router, execution: Execution, attempt: Attempt) -> None:
        ended: asyncio.Future[None] = router.loop.create_future()
        attempt.stop = lambda: _soon(router, execution)
        if attempt.is_cut_off and isinstance(execution, Streaming) and attempt.chunks:
            # Behind its last chunk its handler stands still, as it stood there when it was cut off.
            execution.grant(len(attempt.chunks) - UNLIMITED)
        self.owner = execution.owner
        self._begins(self.owner)
        execution.watch(lambda *_: settle(ended, None, None), None)
        router.recorded.run(execution)
        await ended
        if execution.task is not None:
            await asyncio.wait([execution.task])
        self._attempt = None

    # ── the journal ──────────────────────────────────────────────────────────────────────────────────────────────────
    def write(self, unit: Unit, done: Done) -> None:
        attempt = self._attempt
        if attempt is not None and unit.origin.event_id == attempt.envelope.event_id:
            attempt.take(unit)
            unit.emits.clear()  # each is repeated by itself
        versions = tuple(0 for _ in unit.entries)
        asyncio.get_running_loop().call_soon(done, Committed(self._past.position, versions, versions), None)

    def is_new(self, event_id: bytes) -> bool:
        return False

    async def find(self, event_id: bytes) -> Known | None:
        nested = None if self._router is None else self._router.running.get(event_id)
        attempt = self._attempt
        if attempt is None or nested is None or nested.parent is None:
            return self._silent(await self._past.find(event_id))
        asked = attempt.ask(nested.envelope, awaited=True)
        if attempt.divergence is not None:
            raise attempt.divergence
        if asked is None:
            return await _never()
        known = await self._past.find(asked.id)
        if known is not None and isinstance(nested, Streaming):
            nested.stream = f"{nested.row.category}/{ids.text(asked.id)}"
        if known is not None and self._was_left(attempt, known):
            return await self._without_end(attempt, nested, known)
        return known

    @staticmethod
    def _was_left(attempt: Attempt, known: Known) -> bool:
        """Whether the one who asked was cut off while it waited for this one."""
        return attempt.is_cut_off and (known.outcome is None or not known.outcome.ok)

    async def _without_end(self, attempt: Attempt, nested: Execution, known: Known) -> Known:
        """It is not answered; of a stream the chunks come, and no end."""
        if known.outcome is not None and isinstance(nested, Streaming) and attempt.chunks:
            self._silenced.add(known.request.event_id)
            return known
        attempt.cut()
        return await _never()

    def _silent(self, known: Known | None) -> Known | None:
        if known is None or known.request.event_id not in self._silenced:
            return known
        return Known(known.request, known.position, None)

    # ── the gateway of effects ───────────────────────────────────────────────────────────────────────────────────────
    def admit(self, request: EventEnvelope, effect: str, asked: bytes, *, begun: bool) -> None:
        attempt = self._attempt
        if attempt is None or request.event_id != attempt.envelope.event_id:
            raise ReplayDivergenceError(
                self._past.position, recorded=None, requested={"kind": "effect", "name": effect}
            )
        if effect == NOW and attempt.code is not None:
            return  # of what failed the times that it saw may not be recorded: nothing came of them
        if not begun:
            raise attempt.refuse_effect(effect, asked)
        if not attempt.is_cut_off:
            raise OutcomeUnknownError(f"effect {effect!r}")

    def ends_here(self, request: EventEnvelope) -> bool:
        return self._attempt is not None and self._attempt.ends_here()

    # ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────────
    def time_us(self) -> int:
        """When the request that is repeated was made."""
        return 0 if self._attempt is None else self._attempt.envelope.time_us

    def monotonic(self) -> float:
        return self.time_us() / 1e6


def _filled(decode: Callable[[bytes], Any], raw: bytes) -> bytes:
    return canonical.encode(decode(raw))


_EVERYTHING = Position((1 << 63) - 1)


def _check_handled(router: Router, attempts: Sequence[Attempt]) -> None:
    """Raises ReplayUnhandledError for the first that was handled, and that nobody handles any more."""
    for attempt in sorted(attempts, key=lambda attempt: attempt.position):
        row = router.table.get(attempt.envelope.name)
        was_handled = attempt.code not in (UnknownEventError.code, NoHandlerError.code)
        if was_handled and (row is None or not row.handlers):
            raise ReplayUnhandledError(attempt.envelope.name, attempt.position)


def _end_of(attempt: Attempt) -> int:
    return _EVERYTHING if attempt.outcome is None else attempt.outcome.position


async def _never() -> Known:
    """Until the one who waits is cancelled."""
    forever: asyncio.Future[Known] = asyncio.get_running_loop().create_future()
    return await forever


def _soon(router: Router, execution: Execution) -> None:
    """Not at once: who asks for it is in the middle of a step of that very handler."""
    router.loop.call_soon(execution.abort)
