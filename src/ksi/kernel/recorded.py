"""Requests that are on disk already when they run: emits, reruns of an earlier life, those that were parked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, UnsupportedError
from ksi.core.ports import Known, Outcome, Unit
from ksi.kernel.door import Session
from ksi.kernel.foreign import FOREIGN
from ksi.kernel.joining import ignore
from ksi.kernel.rerun import History, end_without_run, history_of
from ksi.kernel.writing import error_json

if TYPE_CHECKING:
    from ksi.kernel.execution import Execution
    from ksi.kernel.middleware import Parked
    from ksi.kernel.router import Router
    from ksi.kernel.subjects import Place
    from ksi.kernel.table import Row

_log = logging.getLogger("ksi.kernel")


class RecordedRequests:
    """The part of the router that starts what nobody waits for at the door, and closes what can not run."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def check(self, envelope: EventEnvelope) -> None:
        """Bring the payload into its canonical form. Raises what makes the request impossible."""
        self._row(envelope.name).payload(envelope)

    def start(self, envelope: EventEnvelope, session: Session) -> None:
        """Run a request that is on disk already; nobody waits for its answer, but ``session`` may be pushed to.

        A daemon that stops leaves it to the next start.
        """
        if self._router.is_draining:
            return
        try:
            execution, parked = self._execution_of(envelope, session)
        except KSIError as error:
            self._router.refuse(error, envelope, self._close_refused, envelope)
            return
        place = self._router.subjects.place_of(execution)
        if place is None:
            self._router.enter(execution)
            self._router.begin(execution, parked)
        else:
            self._router.start_by(self._begin_settled(execution, parked, place), execution)

    async def _begin_settled(self, execution: Execution, parked: Parked | None, place: Place) -> None:
        try:
            await self._router.subjects.settle(execution, place)
        except FOREIGN as raised:  # the door of a task that nobody awaits
            execution.give_up(execution.row.explain(raised))
        else:
            self._router.begin(execution, parked)

    def execution_of(self, known: Known, history: History) -> Execution:
        """A request of an earlier life, ready to run again. Raises what its checks and its payload's decoder raise."""
        request = known.request
        session = Session(principal=request.principal, source=request.source)
        execution, _ = self._execution_of(request, session)
        execution.recover(history)
        return execution

    def run(self, execution: Execution) -> None:
        """Start what :meth:`execution_of` gave."""
        self._router.enter(execution)
        execution.start()

    def run_parked(self, execution: Execution) -> None:
        """Start what was parked: checked again, in the code of today, but not parked again."""
        envelope = execution.envelope
        try:
            row = self._router.table.get(envelope.name)
            if row is None:
                raise self._router.unknown(envelope.name)
            admitted = self._router.admitted(row, envelope, execution.session, is_nested=True)
        except KSIError as error:
            execution.give_up(error)
            return
        execution.renew(row, admitted.payload, admitted.locks)
        self.run(execution)

    def _execution_of(self, envelope: EventEnvelope, session: Session) -> tuple[Execution, Parked | None]:
        row = self._row(envelope.name)
        admitted = self._router.admitted(row, envelope, session, is_nested=True)
        execution = self._router.new_execution(row, envelope, session, admitted, ignore, None, None)
        execution.opened = True
        return execution, admitted.parked

    def _row(self, name: str) -> Row:
        row = self._router.table.get(name)
        if row is None:
            raise self._router.unknown(name)
        if not row.is_recorded:
            raise UnsupportedError(f"{name!r} is not recorded: it can not be emitted, request it")
        return row

    def close(self, envelope: EventEnvelope, error: KSIError) -> None:
        """Give a recorded request its end without running it."""
        unit = Unit(origin=envelope, outcome=Outcome(False, error_json(error)))
        self._router.journal.write(unit, lambda committed, refused: self._closed(envelope, refused, error))

    def _close_refused(self, envelope: EventEnvelope, raw: bytes | None, error: KSIError | None) -> None:
        assert error is not None
        self.close(envelope, error)

    def _closed(self, envelope: EventEnvelope, refused: KSIError | None, error: KSIError) -> None:
        waiting = self._router.parking.get(envelope.event_id)
        if refused is not None:
            _log.error("%s could not be closed: %s", envelope.name, refused)
        elif waiting is not None:  # it was parked, and who awaits it came after the word
            waiting.settle(None, error)
        row = self._router.table.get(envelope.name)
        if row is not None and row.is_stream:
            self._router.streams.ended(f"{row.category}/{ids.text(envelope.event_id)}")

    async def run_again(self, execution: Execution, known: Known) -> None:
        """It is open in the log, and nobody is at it."""
        history = await history_of(self._router, known.request)
        if (history.is_parked or history.was_resumed) and await self._was_resumed_meanwhile(execution):
            return
        execution.recover(history)
        if execution.answered:
            return
        if history.is_parked:
            self._router.leave(execution)
            self._router.parking.keep(execution)
        elif (end := end_without_run(execution.row, known.request, history)) is not None:
            execution.read_back()
            execution.failed(end)
        else:
            execution.start()

    async def _was_resumed_meanwhile(self, execution: Execution) -> bool:
        """Whether somebody's word on a parked request came before the one who awaits it had come to it again."""
        known = await self._router.known_request(execution.envelope.event_id)
        other = self._router.running.get(execution.envelope.event_id)
        if known.outcome is not None:
            execution.replay(known.outcome)
            return True
        if other is None or other is execution:
            return False
        other.watch(lambda _, raw, error: execution.settle(raw, error), None)
        return True
