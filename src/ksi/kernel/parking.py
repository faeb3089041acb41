"""Parked requests: a check said "not yet"; somebody's word lets them run, or ends them, also after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ksi.core import canonical, ids
from ksi.core.errors import KSIError, NotFoundError, ShuttingDownError
from ksi.core.events import fact
from ksi.core.ports import Committed, Entry, Known, Unit
from ksi.kernel.execution import Execution
from ksi.kernel.rerun import IS_PARKED, PARKED, WAS_RESUMED, History, history_of
from ksi.kernel.writing import Written

if TYPE_CHECKING:
    from ksi.kernel.router import Router


@fact(IS_PARKED)
class RequestParked(msgspec.Struct, frozen=True):
    """``source`` is where its answer is awaited."""

    event: str
    event_id: str
    principal: str
    source: str
    reason: str


@fact(WAS_RESUMED)
class RequestResumed(msgspec.Struct, frozen=True):
    event: str
    event_id: str


class Parking:
    """The parked requests of this process; those of an earlier one are found in the log when they are asked for.

    They hold no key and no slot, their time stands still, and so does that of those who await them. A daemon that
    stops leaves them parked.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._waiting: dict[bytes, tuple[Execution, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, event_id: bytes) -> Execution | None:
        held = self._waiting.get(event_id)
        return None if held is None else held[0]

    def below(self, execution: Execution) -> list[Execution]:
        """Those that ``execution`` waits for, and that nobody has decided on yet."""
        waiting = [held for held, _ in self._waiting.values()]
        return [held for held in waiting if held.is_below(execution) and not held.committing]

    def on(self, branch: str) -> list[Execution]:
        """Those of ``branch`` that nobody has decided on yet."""
        waiting = [held for held, _ in self._waiting.values()]
        return [held for held in waiting if held.envelope.branch == branch and not held.committing]

    async def is_parked(self, event_id: bytes) -> bool:
        """Whether it waits, in this life of the daemon or since an earlier one."""
        if event_id in self._waiting:
            return True
        try:
            await self._known(event_id)
        except NotFoundError:
            return False
        return True

    def park(self, execution: Execution, reason: str) -> None:
        """Keep ``execution``: it is on disk, as an open request, with the fact that says so."""
        envelope = execution.envelope
        event_id = ids.text(envelope.event_id)
        parked = RequestParked(envelope.name, event_id, envelope.principal, envelope.source, reason)
        entry = Entry(stream=PARKED, name=IS_PARKED, data=canonical.encode(parked))
        self.keep(execution)

        def written(committed: Committed | None, error: KSIError | None) -> None:
            if error is not None and self.left(execution):
                execution.settle(None, error)

        self._write(execution, entry, written)

    def keep(self, execution: Execution) -> None:
        """``execution`` is the one of its request who waits from now on; the log has the fact already."""
        self._waiting[execution.envelope.event_id] = (execution, self._router.clock.time_us())
        execution.stand()
        if self._router.is_draining:
            execution.let_go(ShuttingDownError())

    async def resume(self, event_id: bytes) -> None:
        """Run it, once.

        Raises:
            NotFoundError: No such request is parked.
        """
        execution = self.get(event_id) or self._router.recorded.execution_of(*await self._known(event_id))
        resumed = RequestResumed(execution.envelope.name, ids.text(event_id))
        entry = Entry(
            stream=PARKED,
            name=WAS_RESUMED,
            data=canonical.encode(resumed),
            event_id=ids.derived(event_id, WAS_RESUMED),
        )
        committed = await self._router.write(Unit(origin=execution.envelope, entries=[entry]))
        if committed.deduplicated or execution.answered or execution.committing:
            raise _nothing_parked(event_id)
        execution = self.get(event_id) or execution  # the one who awaits it may have come meanwhile
        self.left(execution)
        self._router.recorded.run_parked(execution)

    async def cancel(self, event_id: bytes, error: KSIError) -> None:
        """End it with ``error``. Raises as :meth:`resume`."""
        execution = self.get(event_id)
        if execution is None:
            known, _ = await self._known(event_id)
            self._router.recorded.close(known.request, error)
        elif execution.committing:
            raise _nothing_parked(event_id)
        else:
            execution.give_up(error)

    def let_go(self) -> None:
        """The daemon stops: those who wait are told so, and all stays as it is on disk."""
        for execution, _ in list(self._waiting.values()):
            execution.let_go(ShuttingDownError())

    def left(self, execution: Execution) -> bool:
        """It is parked no more. False: it was not."""
        event_id = execution.envelope.event_id
        held = self._waiting.get(event_id)
        if held is None or held[0] is not execution:
            return False
        del self._waiting[event_id]
        execution.go_on(self._router.clock.time_us() - held[1])
        return True

    def _write(self, execution: Execution, entry: Entry, done: Written) -> None:
        """A query is not recorded: of it there is only the fact, and it ends with this process."""
        unit = Unit(origin=execution.envelope, entries=[entry])
        if execution.is_recorded:
            execution.write(unit, done)
        else:
            self._router.journal.write(unit, done)

    async def _known(self, event_id: bytes) -> tuple[Known, History]:
        """A request that was parked in an earlier life of the daemon."""
        known = await self._router.journal.find(event_id)
        if known is None or known.outcome is not None:
            raise _nothing_parked(event_id)
        history = await history_of(self._router, known.request)
        if not history.is_parked:
            raise _nothing_parked(event_id)
        known.request.deadline_us = None  # whoever set it has gone with that life
        return known, history


def _nothing_parked(event_id: bytes) -> NotFoundError:
    return NotFoundError("parked request", ids.text(event_id))
