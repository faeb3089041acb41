"""A log in a database that others may write to: what was decided here is stored if nobody has written since.

If somebody has, his rows are read, and what was not stored is decided again; a refusal stands when all is known that
was there when it was asked for. A daemon owns its log, so for it nobody ever has.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from functools import partial

from ksi.core.clock import Clock
from ksi.core.errors import KSIError, LogLockedError, StoreClosedError, UnavailableError
from ksi.core.events import MAIN, Position
from ksi.core.ports import Done, Unit
from ksi.core.threads import Threads
from ksi.store.log import Batch, LoopLog
from ksi.store.postgres_looks import Looks, OvertakenError, Told
from ksi.store.postgres_reading import News
from ksi.store.postgres_schema import Access
from ksi.store.postgres_writer import PostgresWriter
from ksi.store.row import Row
from ksi.store.vault import Vault

PROBE_PAUSE = 1.0
"""Seconds between two tries of a server that was away."""
_log = logging.getLogger("ksi.store")


class SharedLog(LoopLog):
    """Writing, and following what others write."""

    def __init__(self, writer: PostgresWriter, access: Access, clock: Clock, threads: Threads, vault: Vault) -> None:
        super().__init__(clock, vault)
        self._writer, self._access, self._threads = writer, access, threads
        self._standing = UnavailableError("the log", "it was opened for reading") if access == "read" else None
        self._refused: KSIError | None = self._standing
        self._failed = False
        self._probed = 0.0
        self._looks = Looks()
        self._held: list[Told] = []

    @abstractmethod
    def _enter(self, row: Row, body: bytes) -> None:
        """Know a row that another process wrote, also as stored."""

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def write(self, unit: Unit, done: Done) -> None:
        if self._access != "share" or self._refused is not None:
            super().write(unit, done)
        else:
            self._decide(Told(self.doubt, unit, done))

    def _decide(self, told: Told) -> None:
        if self._held:
            self._held.append(told)  # in the order of their writing
        else:
            super().write(told.unit, told)

    def doubt(self, told: Told, error: KSIError) -> None:
        """It was refused, perhaps only because what others wrote is not known here: look, then decide again."""
        if told.look and self._looks.is_answered(told.look):
            told.done(None, error)
            return
        told.look = self._looks.ask()
        self._held.append(told)
        asyncio.get_running_loop().call_soon(self._send)  # behind a batch that waits: it is older

    def _send(self) -> None:
        if self._in_flight is None and self._looks.is_due:
            self._look()
        else:
            super()._send()

    def _keep(self, batch: Batch) -> None:
        self._looks.begin()
        job = partial(self._writer.commit, batch.at, batch, dict(self._checkpoints))
        self._threads.submit("writer", job, partial(self._committed, batch))

    def _committed(self, batch: Batch, news: News | None, error: BaseException | None) -> None:
        if error is not None:
            self.failed(error)
        elif news is not None:
            self._looked(news, None, overtaken=True)
        else:
            self._kept(batch)

    def _kept(self, batch: Batch) -> None:
        super()._kept(batch)
        if self._looks.is_due:
            self._send()

    def failed(self, error: BaseException) -> None:
        """A write failed: nothing that is under way is acknowledged, and nothing is taken until a probe succeeds."""
        reason = error if isinstance(error, KSIError) else UnavailableError("the log", repr(error))
        self._probed = self._clock.monotonic()
        self._failed = True
        if not self.closed:
            self._refused = reason
        held, self._held = self._held, []
        self._lost(reason)
        for told in held:
            told.done(None, reason)

    def _refusal(self, reason: KSIError) -> KSIError:
        if self._failed and not self.closed and self._clock.monotonic() - self._probed >= PROBE_PAUSE:
            self._probed = self._clock.monotonic()
            self._looks.ask()
            self._send()
        return reason

    async def _checkpoint_moved(self, subscriber: str, to: Position | None) -> None:
        while True:
            try:
                return await super()._checkpoint_moved(subscriber, to)
            except OvertakenError:
                continue

    async def _drained(self) -> None:
        while self._decider.pending or self._held:
            await self.bell.wait()

    # ── what others wrote ────────────────────────────────────────────────────────────────────────────────────────────
    async def catch_up(self) -> None:
        """Know all that was committed before this was called.

        Raises:
            UnavailableError: There is no server.
        """
        look = self._looks.ask()
        self._send()
        while not self._looks.is_answered(look):
            await self.bell.wait()
            if self._failed and self._refused is not None:
                raise self._refused

    def _rung(self, backend: int | None) -> None:
        if backend is None or backend != self._writer.backend:
            self._looks.ask()
            self._send()

    def _look(self) -> None:
        self._looks.begin()
        self._in_flight = Batch(self._at)
        self._threads.submit("writer", self._writer.news, self._looked)

    def _looked(self, news: News | None, error: BaseException | None, *, overtaken: bool = False) -> None:
        self._in_flight = None
        if news is None:
            self.failed(error or UnavailableError("the log", "nothing was read"))
        elif self._access == "own" and any(link != self._writer.sent for link in news.links):
            self.failed(LogLockedError(self._writer.place, "another daemon, which has written to it since"))
        else:
            self._go_on()
            self._looks.end(complete=not news.more)
            if overtaken or news.links or news.checkpoints != self._checkpoints:
                self._adopt(news)
            self._release()
            super()._send()  # not another look first: where many write there is always one due
            self._send()
            self.bell.ring()

    def _go_on(self) -> None:
        """The server answers again, if it was away."""
        if self._failed:
            self._failed = False
            self._refused = StoreClosedError() if self.closed else self._standing

    def _adopt(self, news: News) -> None:
        """Go on from what is in the log now, and decide again what was decided on less."""
        again = self._decider.take_pending()
        self._batch = None
        self._advance(news)
        for decided in again:
            if isinstance(decided.done, Told):
                self._decide(decided.done)
            else:
                decided.done(None, OvertakenError())

    def _advance(self, news: News) -> None:
        self._decider.reset(news.checkpoints)
        for row, body in news.rows:
            self._enter(row, body)
        self._writer.link = news.link
        self._at = max(self._at, news.link.at)
        self._checkpoints = dict(news.checkpoints)
        self._decider.start(Position(news.link.last), news.checkpoints)
        for row, _ in news.rows:
            self._show(row)

    def _show(self, row: Row) -> None:
        if row.origin.branch != MAIN:
            return
        try:
            changes = self._views.apply(row)
        except Exception:  # noqa: BLE001  # a view's code is a plugin's: its error must not stop the log
            # Who wrote it has other views, or it would have failed there. Here it can not be refused any more.
            _log.exception("a view of this process does not take the row @%d", row.last)
            return
        for change in changes:
            change.kept.show(change)

    def _release(self) -> None:
        """Decide what was held, as far as that is known now which it waited for."""
        held, self._held = self._held, []
        for told in held:
            if self._looks.is_answered(told.look):
                self._decide(told)
            else:
                self._held.append(told)
