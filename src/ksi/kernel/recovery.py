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
from ksi.core.errors import DeadlineExceededError, KSIError, OutcomeUnknownError
from ksi.core.events import fact
from ksi.core.ports import Entry, Known, Unit
from ksi.kernel.rerun import RECOVERY, History, end_without_run, history_of

if TYPE_CHECKING:
    from ksi.kernel.router import Router

_log = logging.getLogger("ksi.kernel")


@fact("request:rerun")
class RequestRerun(msgspec.Struct, frozen=True):
    """A request runs again after a crash, for the ``attempt``-th time."""

    event: str
    event_id: str
    attempt: int


class Recovered(msgspec.Struct):
    """What a start found: numbers of requests run again, closed without a run, and still parked."""

    rerun: int = 0
    closed: int = 0
    parked: int = 0


async def recover(router: Router) -> Recovered:
    """See the module. Returns when every open request is closed, has been started, or is left parked."""
    recovered = Recovered()
    open_requests = [known async for known in router.journal.open_requests()]
    waiting = {known.request.event_id for known in open_requests}
    for known in open_requests:
        if (known.request.cause in waiting and not is_emit(known)) or known.request.event_id in router.running:
            continue
        history = await history_of(router, known.request)
        if history.is_parked:
            recovered.parked += 1
        elif await _run_again(router, known, history, stood_still=await _awaits_a_word(router, known, open_requests)):
            recovered.rerun += 1
        else:
            recovered.closed += 1
            await _close_orphans(router, known, open_requests)
    return recovered


async def _awaits_a_word(router: Router, known: Known, open_requests: list[Known]) -> bool:
    """Whether it waits, itself or through others, for a request that is parked."""
    for nested in open_requests:
        if nested.request.cause == known.request.event_id and not is_emit(nested):
            history = await history_of(router, nested.request)
            if history.is_parked or await _awaits_a_word(router, nested, open_requests):
                return True
    return False


async def _run_again(router: Router, known: Known, history: History, *, stood_still: bool) -> bool:
    """Start one request again. False: it was closed instead.

    One that ``stood_still`` in its last life did not end that: a wait may outlast any number of restarts.
    """
    attempt = history.attempts + 1
    if stood_still:
        history.attempts = 0
    try:
        _check_deadline(router, known, history)
        execution = router.recorded.execution_of(known, history)
        end = end_without_run(execution.row, known.request, history)
        if end is not None:
            raise end
        await _note_rerun(router, known, attempt)
    except KSIError as error:
        router.recorded.close(known.request, error)
        return False
    router.recorded.run(execution)
    return True


def _check_deadline(router: Router, known: Known, history: History) -> None:
    """Of one that was parked the deadline stood still, nobody knows until when."""
    request = known.request
    if history.was_resumed:
        request.deadline_us = None
    if request.deadline_us is not None and request.deadline_us <= router.clock.time_us():
        raise DeadlineExceededError(request.name)


async def _note_rerun(router: Router, known: Known, attempt: int) -> None:
    request = known.request
    rerun = RequestRerun(request.name, ids.text(request.event_id), attempt)
    entry = Entry(
        stream=RECOVERY,
        name="request:rerun",
        data=canonical.encode(rerun),
        event_id=ids.derived(request.event_id, "rerun", attempt),
    )
    await router.write(Unit(origin=request, entries=[entry]))
    _log.info("%s runs again after a crash (attempt %d)", request.name, attempt)


async def _close_orphans(router: Router, parent: Known, open_requests: list[Known]) -> None:
    """Those whom the closed request awaited will not be met by anybody."""
    for known in open_requests:
        if known.request.cause == parent.request.event_id and not is_emit(known):
            row = router.table.get(known.request.name)
            history = await history_of(router, known.request)
            end = None if row is None else end_without_run(row, known.request, history)
            router.recorded.close(known.request, end or OutcomeUnknownError(known.request.name))
            await _close_orphans(router, known, open_requests)


def is_emit(known: Known) -> bool:
    """Whether a nested request was emitted, not awaited: the last step of its causal path says so."""
    return "!" in known.request.path.rpartition("/")[2]
