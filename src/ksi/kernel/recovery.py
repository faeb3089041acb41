"""After a crash: every open request gets its end, or runs again.

In position order, once the plugins are up: a deadline that passed is ``deadline_exceeded``; what can be run again is;
what had acted on the world, and does not say that this is harmless, is ``outcome_unknown`` (or ``interrupted``, where
the event declares that). A nested request is left to the one that awaits it, which runs again itself and meets it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from ksi.core import canonical, ids
from ksi.core.errors import DeadlineExceededError, InterruptedRunError, KSIError, OutcomeUnknownError
from ksi.core.events import fact
from ksi.core.ports import Entry, Known, Unit
from ksi.kernel.door import Session
from ksi.kernel.effects import REQUESTED
from ksi.kernel.router import caused_by, ignore

if TYPE_CHECKING:
    from ksi.kernel.execution import Execution
    from ksi.kernel.router import Router
    from ksi.kernel.table import Row

RERUNS_MAX = 2
RECOVERY = "$recovery"
_log = logging.getLogger("ksi.kernel")


@fact("request:rerun")
class RequestRerun(msgspec.Struct, frozen=True):
    """A request runs again after a crash, for the ``attempt``-th time."""

    event: str
    event_id: str
    attempt: int


class Recovered(msgspec.Struct):
    """What a start found: numbers of requests run again, and closed without a run."""

    rerun: int = 0
    closed: int = 0


class _History(msgspec.Struct):
    """What is recorded in the name of an open request."""

    attempts: int = 0
    has_acted: bool = False


async def recover(router: Router) -> Recovered:
    """See the module. Returns when every open request is closed or has been started."""
    recovered = Recovered()
    open_requests = [known async for known in router.journal.open_requests()]
    waiting = {known.request.event_id for known in open_requests}
    for known in open_requests:
        if known.request.cause in waiting and not is_emit(known):
            continue
        if await _one(router, known):
            recovered.rerun += 1
        else:
            recovered.closed += 1
            await _close_orphans(router, known, open_requests)
    return recovered


async def _one(router: Router, known: Known) -> bool:
    """Close one request, or start it again. True: it runs."""
    row = router.table.get(known.request.name)
    history = await _history(router, known)
    end = _end_without_run(router, row, known, history)
    if end is None and row is not None:
        try:
            await _rerun(router, row, known, history.attempts + 1)
            return True
        except KSIError as error:
            end = error
    router.close_request(known.request, end or OutcomeUnknownError(known.request.name))
    return False


async def _history(router: Router, known: Known) -> _History:
    history = _History()
    async for event in router.journal.read_all(caused_by(known.request.event_id)):
        if event.stream == RECOVERY:
            history.attempts += 1
        else:
            history.has_acted = history.has_acted or event.name == REQUESTED or event.kind in ("fact", "request")
    return history


def _end_without_run(router: Router, row: Row | None, known: Known, history: _History) -> KSIError | None:
    """How the request ends without running; None: it runs again."""
    request = known.request
    if request.deadline_us is not None and request.deadline_us <= router.clock.time_us():
        return DeadlineExceededError(request.name)
    if row is None or not row.handlers:
        return router.unknown(request.name)
    on_crash = row.declaration.on_crash
    if on_crash == "interrupted" and (history.has_acted or row.is_stream):
        return InterruptedRunError(request.name)
    may_rerun = not row.is_before or on_crash == "rerun" or not history.has_acted
    if not may_rerun or history.attempts >= RERUNS_MAX:
        return OutcomeUnknownError(request.name)
    return None


async def _rerun(router: Router, row: Row, known: Known, attempt: int) -> None:
    request = known.request
    session = Session(principal=request.principal, source=request.source)
    execution: Execution = router.recorded_execution(row, request, session, ignore)
    await router.prepare_rerun(execution, known)
    rerun = RequestRerun(request.name, ids.text(request.event_id), attempt)
    entry = Entry(
        stream=RECOVERY,
        name="request:rerun",
        data=canonical.encode(rerun),
        event_id=ids.derived(request.event_id, "rerun", attempt),
    )
    await router.write(Unit(origin=request, entries=[entry]))
    _log.info("%s runs again after a crash (attempt %d)", request.name, attempt)
    execution.start()


async def _close_orphans(router: Router, parent: Known, open_requests: list[Known]) -> None:
    """Those whom the closed request awaited will not be met by anybody."""
    for known in open_requests:
        if known.request.cause == parent.request.event_id and not is_emit(known):
            row = router.table.get(known.request.name)
            history = await _history(router, known)
            end = None if row is None else _end_without_run(router, row, known, history)
            router.close_request(known.request, end or OutcomeUnknownError(known.request.name))
            await _close_orphans(router, known, open_requests)


def is_emit(known: Known) -> bool:
    """Whether a nested request was emitted, not awaited: the last step of its causal path says so."""
    return "!" in known.request.path.rpartition("/")[2]
