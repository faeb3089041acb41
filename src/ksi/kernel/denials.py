"""Denied requests are facts: who wanted what, and which rule said no.

At most :data:`PER_SECOND` a second for each principal, so that one who hammers cannot fill the disk; the rest is
counted in the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ksi.core import canonical
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError, PermissionDeniedError
from ksi.core.events import fact
from ksi.core.ports import Committed, Entry, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksi.kernel.router import Router

PER_SECOND = 10


@fact("permission:denied")
class PermissionDenied(msgspec.Struct, frozen=True):
    """``uncounted``: denials of this principal since the last fact that were not recorded one by one."""

    event: str
    principal: str
    rule: str
    uncounted: int


class Denials:
    """Records denials, and lets their answers go out after the commit."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._second = 0
        self._recorded: dict[str, int] = {}
        self._uncounted: dict[str, int] = {}

    def record(self, envelope: EventEnvelope, error: PermissionDeniedError, answer: Callable[[KSIError], None]) -> None:
        """Put the denial on disk, then ``answer``."""
        principal = error.principal
        if not self._may_record(principal):
            self._uncounted[principal] = self._uncounted.get(principal, 0) + 1
            answer(error)
            return
        denied = PermissionDenied(error.event_name, principal, error.rule, self._uncounted.pop(principal, 0))
        entry = Entry(stream=f"permission/{principal}", name="permission:denied", data=canonical.encode(denied))

        def done(committed: Committed | None, refused: KSIError | None) -> None:
            answer(error)

        self._router.journal.write(Unit(origin=envelope, entries=[entry]), done)

    def _may_record(self, principal: str) -> bool:
        second = self._router.clock.time_us() // 1_000_000
        if second != self._second:
            self._second = second
            self._recorded.clear()
        self._recorded[principal] = count = self._recorded.get(principal, 0) + 1
        return count <= PER_SECOND
