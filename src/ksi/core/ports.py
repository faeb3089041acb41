"""What the kernel needs from upper rooms, which implement it; ``daemon.py`` wires them.

The log is asked through :class:`EventLog` (everybody's API) and :class:`Journal` (the kernel's, on the same object).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import KSIError
from ksi.core.events import (
    ANY,
    MAIN,
    AppendCondition,
    Appended,
    Archive,
    ArchiveCategory,
    Attached,
    Backend,
    Backup,
    BranchInfo,
    Durable,
    Erased,
    ExpectedVersion,
    Kind,
    Lag,
    LogSizes,
    NewEvent,
    ParkedEvent,
    Position,
    Query,
    RecordedEvent,
    StreamAppend,
    StreamInfo,
)
from ksi.core.views import Projections, Snapshots, UpcasterBook, UpcastersChecked, View, ViewReader

R = TypeVar("R")
Start = Position | Literal["start", "end", "checkpoint"]
Overflow = Literal["wait", "drop", "disconnect"]
Refusal = Literal["retry", "park", "skip"]


# ── what one commit holds ────────────────────────────────────────────────────────────────────────────────────────────
class Entry(msgspec.Struct, kw_only=True):
    """A fact, chunk or effect of a unit. ``data`` is canonical JSON; ``event_id`` only where one is needed."""

    stream: str
    name: str
    data: bytes
    kind: Kind = "fact"
    event_id: bytes | None = None
    tags: frozenset[str] = frozenset()
    schema_version: int = 1
    subject: str | None = None
    occurred_us: int | None = None
    metadata: Mapping[str, Any] | None = None
    correlation: str | None = None
    """Run and cause where they are not those of the unit's origin."""
    cause: bytes | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How the request ended: ``data`` is the answer's JSON, or the error's ``{"code", "message", "details"}``."""

    ok: bool
    data: bytes
    metadata: Mapping[str, Any] | None = None
    """What only the outcome knows: read set, duration_us, usage."""


_NOTHING: Mapping[str, ExpectedVersion] = MappingProxyType({})


class Unit(msgspec.Struct, kw_only=True):
    """All that one commit holds: it is on disk whole, or not at all. Positions are given in the order below.

    ``origin`` is the request in whose name all is written; entries inherit its run, and have it as their cause.
    """

    origin: EventEnvelope
    request: bool = False  #: record ``origin`` itself, as kind "request" in the stream ``$requests``
    entries: list[Entry] = []
    emits: list[EventEnvelope] = []  #: requests to be started after the commit; open until their own outcome
    outcome: Outcome | None = None  #: closes ``origin``
    expected: Mapping[str, ExpectedVersion] = _NOTHING
    condition: AppendCondition | None = None
    checkpoint: tuple[str, Position] | None = None
    ancestors: list[EventEnvelope] = []  #: requests not yet on disk that go in front (opened by this commit)


class Committed(msgspec.Struct, frozen=True):
    """Where a unit stands: the position of its last event, and versions of its entries, in order."""

    position: Position
    positions: Sequence[int]
    versions: tuple[int, ...]
    deduplicated: bool = False


Done = Callable[[Committed | None, KSIError | None], None]


class Known(msgspec.Struct, frozen=True):
    """A request that the log holds. ``outcome`` None: it is open."""

    request: EventEnvelope
    position: Position
    outcome: Outcome | None


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Subscription(Protocol):
    """``async with`` + ``async for``; pull-based: at most ``buffer`` events are read ahead."""

    def __aiter__(self) -> AsyncIterator[RecordedEvent]: ...

    @property
    def position(self) -> Position:
        """Moves even when the filter matches nothing."""

    @property
    def is_live(self) -> bool: ...

    @property
    def dropped(self) -> int:
        """Events that overflow="drop" has dropped so far."""

    async def wait_caught_up(self, timeout: float | None = None) -> Position: ...

    @property
    def acknowledged(self) -> Position:
        """All up to there is done: the low-water mark of :meth:`ack`. Without a name, :attr:`position`."""

    async def lag(self) -> Lag: ...

    async def ack(self, event: RecordedEvent) -> None:
        """``event`` is done; in any order. Needs a name.

        It is buffered: the checkpoint joins the next commit, or one of its own after 100 ms, and is on disk when the
        block ends. After a crash in between what was acknowledged may be given again.
        """

    async def nack(self, event: RecordedEvent, action: Refusal, reason: str) -> None:
        """``event`` could not be done. Needs a name.

        Args:
            action: "retry" gives it again after a second, five times in all, then parks it. "park" puts it aside, as a
                fact with its cause in ``$parked/<subscriber>``, until :meth:`EventLog.retry_parked`. "skip" passes
                over it, with a line in the daemon's log.
            reason: A sentence for people.

        Raises:
            OverloadedError: Too many are parked.
        """


class EventLog(Protocol):
    """One for each backend, one contract for all. All calls from one event loop."""

    backend: Backend
    durable: Durable

    @property
    def is_read_only(self) -> bool:
        """Whether it takes nothing now: its disk is full, or it is closed. Reading goes on."""

    @property
    def read_only_reason(self) -> str | None:
        """Why it takes nothing now; None where it does."""

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected_version: ExpectedVersion = ANY,
        condition: AppendCondition | None = None,
        branch: str = MAIN,
    ) -> Appended:
        """Append ``events`` to ``stream``, all of them or none. They are as durable as it says when this returns.

        Raises:
            WrongExpectedVersionError: Another writer appended first.
            AppendConditionError: An event matches ``condition``.
            EventIdConflictError: The same id was stored before with other content, or only a part of the batch was.
            UnavailableError: The disk is full, or the log read-only.

        The same ids with the same content return the old positions, even if the expected version now looks wrong.
        No events: nothing happens. Semantics follow Message DB's ``write_message``.
        """

    async def append_all(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        checkpoint: tuple[str, Position] | None = None,
        branch: str = MAIN,
    ) -> Appended:
        """The same over several streams, atomically; ``checkpoint`` (subscriber, position) commits with the events.

        Raises:
            CheckpointConflictError: The subscriber is at that position or beyond it.
        """

    def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
    ) -> AsyncIterator[RecordedEvent]:
        """Events of one stream by version, both ends included, of all kinds."""

    def read_all(
        self,
        query: Query = (),
        *,
        after: Position | None = None,
        until: Position | None = None,
        backwards: bool = False,
        limit: int | None = None,
        branch: str = MAIN,
        envelopes: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        """Events that match, in position order; ``after`` is left out, ``until`` included.

        Raises ArchivedError where the payload of one is in an archive. With ``envelopes`` it comes without, and its
        metadata names the file: for lists.
        """

    def streams(self, pattern: str = "*", *, branch: str = MAIN) -> AsyncIterator[StreamInfo]: ...
    async def get(self, event_id: UUID, *, branch: str = MAIN) -> RecordedEvent | None: ...

    async def at(self, position: Position, *, branch: str = MAIN) -> RecordedEvent | None:
        """The event at exactly this position."""

    async def head(self, *, branch: str = MAIN) -> Position | None: ...

    async def version(self, stream: str, *, branch: str = MAIN) -> int:
        """Version of the stream's last event; 0 where there is none."""

    async def position_at(self, when: datetime, *, branch: str = MAIN) -> Position | None:
        """The last position recorded at ``when`` or before."""

    def subscribe(
        self,
        query: Query = (),
        *,
        after: Start = "checkpoint",
        subscriber: str | None = None,
        buffer: int = 256,
        overflow: Overflow = "wait",
        branch: str = MAIN,
    ) -> AbstractAsyncContextManager[Subscription]:
        """Catch up, then live, without gap or double."""

    async def checkpoint(self, subscriber: str, *, branch: str = MAIN) -> Position | None: ...
    async def reset_checkpoint(self, subscriber: str, to: Position | None, *, branch: str = MAIN) -> None: ...
    async def parked(self, subscriber: str) -> Sequence[ParkedEvent]:
        """What it has put aside, in order of position."""

    async def retry_parked(self, subscriber: str, position: Position | None = None) -> int:
        """Have one of them, or all, given again: now, or when the subscriber is back. How many they are.

        Raises:
            NotFoundError: That one is not parked.
        """

    async def drop_parked(self, subscriber: str, position: Position | None = None, *, reason: str = "") -> int:
        """Give one of them, or all, up. How many they are. Raises as :meth:`retry_parked`."""

    async def branches(self) -> Sequence[BranchInfo]:
        """``main`` first, then those that are not discarded."""

    async def fork(self, at: Position, name: str, *, parent: str = MAIN) -> str:
        """Cut ``name`` off ``parent`` behind ``at``: it sees what there was up to then, and goes on by itself.

        Raises:
            ValidationError: No name of a branch, or no position of the parent.
            ConflictError: The name was given before.
            NotFoundError: The parent does not exist.
        """

    async def discard(self, branch: str) -> None:
        """Read and write it no more. Raises NotFoundError."""

    async def materialize(self, branch: str) -> Sequence[str]:
        """Keep read models of ``branch`` in tables from now on, so that no start folds them again; their names.

        Raises:
            NotFoundError: There is no such branch, or it is ``main``.
            UnsupportedError: This backend keeps tables of main only.
            UnavailableError: They can not be written; what is missing is folded when it is read.
        """

    async def verify(self) -> Sequence[str]:
        """What is wrong with what is stored, one sentence each; empty when all is whole."""

    async def backup(self, path: Path, *, keys: Path | None = None) -> Backup:
        """Copy the log into a new file, while all goes on; it is read again and checked before it gets its name.

        What is sealed for a subject is in it as ciphertext; its keys go into ``keys``, another new file.

        Raises:
            UnsupportedError: It is in memory only, or has no keys where they are asked for.
            ConflictError: The file is there already.
            LogDamagedError: The log is not whole.
            UnavailableError: The file can not be written.
        """

    async def archive(
        self, path: Path, *, before: Position, categories: Sequence[ArchiveCategory] = ("chunks", "effects")
    ) -> Archive:
        """Move chunks and effects of closed runs that stand before ``before`` into a new file, while all goes on.

        The file is read again and checked before anything leaves. Positions, ids, streams and times stay; whoever asks
        for what has left gets ArchivedError, which names the file. What a crash left half done is done when it is
        asked for again. Nothing to move: no file.

        Raises:
            UnsupportedError: This backend has no archives.
            ConflictError: The file is there already, and not of this very call.
            UnavailableError: The file, or the log, can not be written.
        """

    async def attach(self, path: Path) -> Attached:
        """Bring back what is in an archive. The file is not needed any more then. Twice is no error.

        Raises:
            UnsupportedError: This backend has no archives.
            NotFoundError: There is no such file.
            ConflictError: It is no archive, or one of another log.
            LogDamagedError: It is not as it was written; nothing is changed.
        """

    async def erase_subject(self, subject: str, *, with_damaged: bool = False) -> Erased:
        """Make that no payload recorded for ``subject`` by now can ever be read again, here or in a backup.

        Read models are built again without it. Twice is no error: it ends what was begun. ``with_damaged``: remove
        the damaged logs that were put aside, whole; else the answer names them.

        Raises:
            UnsupportedError: This backend does not seal payloads.
            UnavailableError: Something could not be overwritten; the key is destroyed all the same. Ask again.
        """

    async def check_upcasters(self, newest: Mapping[str, tuple[int, type]]) -> UpcastersChecked:
        """Try the upcasters on all that is stored. ``newest``: schema version and struct of facts, by name."""

    @property
    def snapshots(self) -> Snapshots:
        """States of folds."""

    async def sizes(self) -> LogSizes:
        """What of it is what. Raises UnsupportedError."""

    async def bytes_on_disk(self) -> int:
        """What it takes there, indexes and views included."""

    async def close(self) -> None: ...


class Journal(EventLog, Protocol):
    """The log as the kernel uses it."""

    commits: int
    """Batches that it has put on disk since it was opened."""
    dropped: int
    """Events that its subscribers with overflow="drop" have missed since then."""

    @property
    def seals(self) -> bool:
        """Whether what has a subject is sealed, so that it can be erased."""

    @property
    def has_subjects(self) -> bool:
        """Whether anything was ever sealed here."""

    @property
    def projections(self) -> Projections: ...

    @property
    def upcasters(self) -> UpcasterBook: ...

    def write(self, unit: Unit, done: Done) -> None:
        """Commit ``unit``; ``done(committed, error)`` follows on the loop once it is durable and the views show it.

        Units become visible, and ``done`` is called, in the order of ``write``. It gets WrongExpectedVersionError,
        AppendConditionError, CheckpointConflictError, EventIdConflictError (nothing of the unit is stored),
        UnavailableError, or InternalError (a view's ``apply`` raised). It may be called before ``write`` returns only
        where nothing was stored.
        """

    async def find(self, event_id: bytes) -> Known | None:
        """What is known of a request, also of one in a unit under way. Does not suspend on memory and SQLite."""

    def is_new(self, event_id: bytes) -> bool:
        """Whether it is known, without asking a disk, that nothing has this id. False says nothing."""

    def open_requests(self) -> AsyncIterator[Known]:
        """Requests without outcome, in position order."""

    def register(self, view: type[View[Any]]) -> None:
        """Keep this view from now on; it is folded to the head before this returns, unless it is folded behind."""

    def unregister(self, view: type[View[Any]]) -> None:
        """Stop applying it; what is stored of it stays."""

    def view(self, view: type[View[R]], *, branch: str = MAIN) -> ViewReader[R]:
        """Its reader. Raises NotFoundError where it is not registered."""


# ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────
EventStore = Journal
"""The log as one object: with its projections and its care, as ``SqliteEventStore.open`` and the others give it."""


class ReplyChannel(Protocol):
    """The connection that asked."""

    def push(self, frame: Mapping[str, Any]) -> None:
        """Send ``frame`` to it, behind the reply; bounded; dropped silently when the connection is gone."""


class EffectGateway(Protocol):
    """Decides what becomes of an effect whose result the log does not hold."""

    def admit(self, request: EventEnvelope, effect: str, asked: bytes, *, begun: bool) -> None:
        """Let it happen.

        Args:
            request: The request whose handler asks.
            asked: The effect's own request, canonical JSON.
            begun: The log says that it began, and not how it ended.

        Raises:
            OutcomeUnknownError: It may have happened before a crash.
            ReplayDivergenceError: Outside of a live run nothing happens that was not recorded.
        """

    def ends_here(self, request: EventEnvelope) -> bool:
        """Whether what is repeated was cut off right here: then its handler waits for the cancel that follows."""


class Tokens(Protocol):
    """Tokens: who says one is its principal. A child process of the daemon has no rights without one."""

    def create(self, principal: str, profile: str | None = None, ttl: float | None = None) -> str:
        """A new token, for ``KSI_TOKEN`` of a child; it counts for ``ttl`` seconds. Blocking: call it in a thread."""

    def withdraw(self, token: str) -> None:
        """Let ``token`` count no more; one that does not count already changes nothing. Blocking."""

    def profile_of(self, principal: str) -> str | None:
        """The profile that the principal got with its tokens."""


class Shutdown(Protocol):
    """Ends the daemon."""

    def request(self, reason: str) -> None:
        """Begin the drain; returns at once. Asking again changes nothing."""
