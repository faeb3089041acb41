"""The way out of a damaged log: what is whole of it, up to a commit, as a new log that says what is missing.

Only rows and the links of commits are taken over; all else is made anew from them. The new log goes on behind the last
position that the lost events had: no position is ever given twice. The damaged files stay, under another name.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path

import apsw
import msgspec

from ksi.core import canonical
from ksi.core.clock import Clock
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import LogDamagedError, NotFoundError, ValidationError
from ksi.core.events import Position, fact
from ksi.core.ports import Entry, Unit
from ksi.store.archives import STREAM
from ksi.store.aside import FILES, free_name
from ksi.store.backup import sync_file
from ksi.store.build import build
from ksi.store.chain import GENESIS, Link, Witness, next_link, sealed, seen_in, witness_of
from ksi.store.copying import NewLog
from ksi.store.lock import LockFile, lock_of
from ksi.store.offline import as_it_lies
from ksi.store.opening import Commit, check_witness, checked_commits, stored_checkpoints, stored_head
from ksi.store.row import pack
from ksi.store.schema import DAMAGE, connect_writer, set_pragmas

LOSS = "store:loss_was_accepted"


@fact(LOSS)
class LossWasAccepted(msgspec.Struct, frozen=True):
    """Events behind ``at`` up to ``lost_to`` are gone: the log was damaged, and somebody chose to go on without them.

    ``kept_as`` is where the damaged log was put; ``reason`` what was wrong with it, as far as it could be told.
    """

    at: int
    lost_to: int
    reason: str
    kept_as: str


def accept_loss(log: Path, at: int, clock: Clock) -> LossWasAccepted:
    """Let the log at ``log``, which no daemon has open, end with the commit that ends at ``at``.

    Raises:
        NotFoundError: There is none.
        LogLockedError: A daemon runs there.
        ValidationError: No commit ends there.
        LogDamagedError: It is not whole up to there.
    """
    if not log.exists():
        raise NotFoundError("log", str(log))
    lock = LockFile(lock_of(log))
    try:
        return _Salvage(log, at, clock).run()
    except apsw.Error as error:
        raise LogDamagedError(f"SQLite can not read it: {error}", position=0) from None
    finally:
        lock.release()


def events_lost(log: Path, at: int) -> int:
    """How many events :func:`accept_loss` would give up, as far as the log and its witness know. Nothing is changed.

    Raises:
        NotFoundError: There is none.
        LogLockedError: A daemon runs there.
    """
    if not log.exists():
        raise NotFoundError("log", str(log))
    lock = LockFile(lock_of(log))
    last = seen_in(witness_of(log)).last
    try:
        with closing(as_it_lies(log)) as old:
            last = max(last, _last_known(old).last)
    except apsw.Error:  # the witness knows as much
        pass
    finally:
        lock.release()
    return max(0, last - at)


class _Salvage:
    """One log, on its way."""

    def __init__(self, log: Path, at: int, clock: Clock) -> None:
        self._log = log
        self._at = at
        self._clock = clock
        self._aside = free_name(log)
        self._seen = seen_in(witness_of(log))
        self._version = 0

    def run(self) -> LossWasAccepted:
        part = _empty_file(self._log.with_name(self._log.name + ".part"))
        try:
            loss = self._made(part)
            self._put_in_place(part)
            return loss
        finally:
            part.unlink(missing_ok=True)

    def _made(self, part: Path) -> LossWasAccepted:
        with closing(as_it_lies(self._log)) as old, closing(connect_writer(part, "full", None)) as new:
            set_pragmas(new, journal_mode="delete")
            with new:
                loss = self._take_over(old, NewLog(new))
        return loss

    # ── the new log ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _take_over(self, old: apsw.Connection, new: NewLog) -> LossWasAccepted:
        self._take_commits(old, new)
        new.write_keys()
        with suppress(apsw.Error):  # a subscriber without a checkpoint begins again: it was promised "at least once"
            new.write_checkpoints(stored_checkpoints(old).items())
        self._link = new.link
        reason, head = self._problem(old), _last_known(old)
        loss = LossWasAccepted(self._at, max(self._at, self._seen.last, head.last), reason, str(self._aside))
        self._say(new, loss, max(self._clock.time_us(), self._seen.at + 1, head.at + 1))
        new.write_open()
        self._link = new.link
        return loss

    def _take_commits(self, old: apsw.Connection, new: NewLog) -> None:
        with suppress(LogDamagedError, *DAMAGE):  # what is wrong is said in the fact
            for commit in checked_commits(old, GENESIS):
                if commit.link.last > self._at:
                    break
                new.take(commit)
                self._version += sum(line.stream == STREAM for row in commit.rows for line in row.lines)
        if new.link.last != self._at:
            raise ValidationError(f"no whole commit ends at @{self._at}; one before it ends at @{new.link.last}")

    def _problem(self, old: apsw.Connection) -> str:
        """What is wrong behind what was taken over."""
        try:
            for _ in checked_commits(old, self._link):
                pass
            check_witness(old, stored_head(old), self._seen)
        except LogDamagedError as error:
            return error.reason
        except apsw.Error as error:
            return str(error)
        return ""

    def _say(self, new: NewLog, loss: LossWasAccepted, at: int) -> None:
        """The first commit behind the loss."""
        entry = Entry(stream=STREAM, name=LOSS, data=canonical.encode(loss))
        origin = EventEnvelope(name="", principal="", source="")
        row = build(Unit(origin=origin, entries=[entry]), Position(loss.lost_to), at, [self._version + 1])
        body = sealed(pack(row))
        new.take(Commit(next_link(new.link, at, row.last, [body]), [row], [body]))

    # ── in its place ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _put_in_place(self, part: Path) -> None:
        """A crash on the way leaves a log that is refused as before, never a shorter one that opens."""
        for suffix in FILES:
            if (file := _beside(self._log, suffix)).exists():
                os.link(file, _beside(self._aside, suffix))
        sync_file(self._log.parent)
        for suffix in ("-wal", "-shm"):  # of the old one: they would be played into the new one
            _beside(self._log, suffix).unlink(missing_ok=True)
        witness_of(self._log).unlink(missing_ok=True)  # another name of the one that was put aside
        with closing(Witness(witness_of(self._log))) as witness:
            witness.write(self._link)
            witness.sync()
        part.rename(self._log)
        sync_file(self._log.parent)


def _last_known(connection: apsw.Connection) -> Link:
    with suppress(apsw.Error):
        return stored_head(connection)
    return GENESIS


def _empty_file(path: Path) -> Path:
    path.unlink(missing_ok=True)  # left by a crash
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return path


def _beside(log: Path, suffix: str) -> Path:
    return log.with_name(log.name + suffix)
