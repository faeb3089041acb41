"""What supervisors ask: is it alive, and does it take work."""

from __future__ import annotations

from ksi.core.errors import ShuttingDownError, UnavailableError
from ksi.core.ports import EventLog
from ksi.kernel.router import Router
from ksi.transport.http.exchange import Answer, Exchange


class Probes:
    """Answer without a token, and say nothing but yes or no."""

    def __init__(self, router: Router, log: EventLog) -> None:
        self._router = router
        self._log = log

    async def health(self, exchange: Exchange) -> None:
        """The loop turns."""
        await exchange.answer(Answer(body=b'{"status":"healthy"}'))

    async def readiness(self, exchange: Exchange) -> None:
        """Commands are taken.

        Raises:
            ShuttingDownError: The daemon stops.
            UnavailableError: The log is read-only.
        """
        if self._router.is_draining:
            raise ShuttingDownError
        if self._log.is_read_only:
            raise UnavailableError("the log", "it is read-only")
        await exchange.answer(Answer(body=b'{"status":"ready"}'))
