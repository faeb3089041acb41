"""``EventContext``: what a handler may do in the name of the request that it handles."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ksi.core import ids
from ksi.core.clock import utc
from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ContextClosedError, NotFoundError, QueryWroteError, UnsupportedError
from ksi.core.events import ANY, MAIN, AppendCondition, ExpectedVersion, NewEvent, Position, RecordedEvent
from ksi.core.ports import Entry, ReplyChannel
from ksi.core.views import View, ViewReader
from ksi.kernel.door import Session
from ksi.kernel.entries import encode, entry_of
from ksi.kernel.subjects import adopt
from ksi.kernel.transaction import Transaction

if TYPE_CHECKING:
    from ksi.kernel.effects import Effects, StreamedEffect
    from ksi.kernel.execution import Execution
    from ksi.kernel.services import ServiceRegistry

R = TypeVar("R")
T = TypeVar("T")
_NOTHING: Mapping[str, Any] = {}


class EventContext:
    """One for each handler of each request. It closes with the answer: after that everything but reading raises.

    What is appended and emitted is kept until the commit that also holds the outcome (or until ``commit()``), and is
    visible to nobody before it.
    """

    __slots__ = ("_effects", "_execution", "_random", "emits", "entries", "expected", "is_closed", "scope")

    def __init__(self, execution: Execution, scope: str = "") -> None:
        self._execution = execution
        self.scope = scope
        self._effects: Effects | None = None
        self._random: random.Random | None = None
        self.entries: list[Entry] | None = None
        self.emits: list[EventEnvelope] | None = None
        self.expected: dict[str, ExpectedVersion] | None = None
        self.is_closed = False

    # ── who and what ─────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def envelope(self) -> EventEnvelope:
        """The request, with its metadata."""
        return self._execution.envelope

    @property
    def event_id(self) -> str:
        return ids.text(self._execution.envelope.event_id)

    @property
    def correlation_id(self) -> str:
        """The run that all of this belongs to."""
        return self._execution.envelope.correlation_id

    @property
    def branch(self) -> str:
        """The branch of the log on which all of this happens."""
        return self._execution.envelope.branch

    @property
    def principal(self) -> str:
        """Whose rights count here; ``uid:1000`` for a user of this machine."""
        return self._execution.envelope.principal

    @property
    def deadline(self) -> datetime | None:
        """When the caller stops waiting; flows into all that is requested here."""
        deadline_us = self._execution.envelope.deadline_us
        return None if deadline_us is None else utc(deadline_us)

    @property
    def logger(self) -> logging.Logger:
        """The plugin's logger; its lines carry the run and the event by themselves."""
        return logging.getLogger(f"ksi.plugins.{self._execution.owner}")

    @property
    def services(self) -> ServiceRegistry:
        """``services.get(Interface)``: what other plugins and the daemon provide."""
        return self._execution.router.services

    @property
    def reply_channel(self) -> ReplyChannel | None:
        """For pushes to the connection that asked; None where there is none (a flow, a rerun)."""
        return self._execution.session.reply_channel

    # ── facts, requests ──────────────────────────────────────────────────────────────────────────────────────────────
    def append(
        self,
        stream: str,
        event: msgspec.Struct | NewEvent,
        *,
        expected_version: ExpectedVersion = ANY,
        tags: frozenset[str] = frozenset(),
        subject: str | None = None,
    ) -> None:
        """Say that something became true: a fact in ``stream`` (``category/id``), committed with the outcome.

        ``event`` is a struct named by ``@fact("namespace:past_tense")``, or a ``NewEvent``. With ``expected_version``
        the whole command answers ``wrong_expected_version`` where the stream is elsewhere, and nothing is recorded.
        """
        self._check("append")
        if expected_version is not ANY:
            if self.expected is None:
                self.expected = {}
            self.expected.setdefault(stream, expected_version)
        entry = entry_of(stream, event, tags, subject)
        entry.subject = entry.subject or self._execution.envelope.subject
        self.buffer(entry)

    def adopt_subject(self, subject: str | None) -> None:
        """Record for ``subject`` all that is said from here on, where it is nobody's yet.

        For handlers that learn on their way whose data they have at hand.

        Raises:
            ConflictError: The request is recorded for somebody else.
        """
        adopt(self._execution, subject, where="what is at hand")

    def emit(self, name: str, data: Any = _NOTHING, /, **fields: Any) -> None:
        """Ask for something without waiting: recorded in the same commit, started after it, also after a crash."""
        self._check("emit")
        envelope = self._execution.child(name, encode(data, fields), awaited=False, scope=self.scope)
        self._execution.router.recorded.check(envelope)
        if self.emits is None:
            self.emits = []
        self.emits.append(envelope)

    async def request(self, name: str, data: Any = _NOTHING, /, *, timeout: float | None = None, **fields: Any) -> Any:
        """Ask and wait for the answer (builtins). ``timeout`` is in seconds. Raises what the handler raised.

        A nested command commits by itself before it answers; if this handler fails later, that stays.
        """
        self.check_open()
        if self._effects is not None:
            await self._effects.record_times()
        return await self._execution.router.nesting.request(
            self._execution, name, encode(data, fields), timeout, scope=self.scope
        )

    async def request_as(self, principal: str, name: str, data: Any, *, step: str) -> Any:
        """Ask with the rights of another, as an agent's tool call does, and wait for the answer.

        Whether it was admitted is recorded: a rerun is refused, or served, as it was then.

        Args:
            step: Tells it from all else that this handler asks for; its id comes out of it.

        Raises:
            PermissionDeniedError: ``principal`` may not. And whatever the handler raised.
        """
        session = Session(principal=principal, source=f"plugin:{self._execution.owner}")

        async def admitted(check: Callable[[], Awaitable[None]]) -> None:
            await self.observe("request:admitted", {"principal": principal, "event": name, "step": step}, check)
            await self.effects.record_times()

        return await self._execution.router.nesting.request_as(
            self._execution, session, name, encode(data, {}), admitted, scope=step
        )

    def stream(self, name: str, data: Any = _NOTHING, /, **fields: Any) -> AsyncGenerator[Any, None]:
        """Ask for a stream: its chunks, then ``End(answer)``. Closing the iterator cancels it."""
        self.check_open()
        return self._execution.router.nesting.stream(self._execution, name, encode(data, fields), scope=self.scope)

    async def commit(self) -> None:
        """Put on disk now what is buffered. From here on the command counts as begun, whatever follows."""
        self._check("commit")
        await self._execution.commit(self)

    def transaction(
        self, *, condition: AppendCondition | None = None, checkpoint: tuple[str, Position] | None = None
    ) -> Transaction:
        """``async with context.transaction() as tx:`` a commit of its own, at the end of the block.

        What is appended and emitted on ``tx`` is on disk together behind the block, or not at all; see there what it
        raises. What the context itself has buffered is not part of it. From here on the command counts as begun.

        Args:
            condition: Facts that must not be there.
            checkpoint: A subscriber, and the position up to which it is done.
        """
        self._check("begin a transaction")
        return Transaction(self._execution, self, condition, checkpoint)

    # ── the outside world ────────────────────────────────────────────────────────────────────────────────────────────
    async def effect(
        self,
        name: str,
        request: Any,
        call: Callable[[], Awaitable[Any]],
        *,
        result: type[T] | Any = Any,
        idempotent: bool = False,
    ) -> Any:
        """Touch the outside world, once: the request is on disk before ``call`` runs, its result right after it.

        A rerun after a crash is served the recorded result and does not call again. What began and did not end is
        OutcomeUnknownError, unless ``idempotent`` says that calling again is harmless.

        Args:
            name: What kind of effect, ``http:get``.
            request: JSON-able; tells this effect from others of the same name.
            call: Does it; gives something JSON-able, or raises.
            result: The type that the result is decoded into; builtins where nothing is said.

        Raises:
            KSIError: ``call`` did, now or when it was recorded.
            InternalError: ``call`` raised another error, which is its cause; so it is in a rerun and a replay too.
        """
        self._check("make an effect")
        return await self.effects.run(name, request, call, result=result, idempotent=idempotent)

    async def observe(
        self, name: str, request: Any, call: Callable[[], Awaitable[Any]], *, result: type[T] | Any = Any
    ) -> Any:
        """Look at what the log does not know, as a provider's models: what was seen is recorded, a rerun sees the same.

        It has no commit of its own and goes to disk with the next one, so what must not happen twice is an effect.
        Arguments as for :meth:`effect`.
        """
        self.check_open()
        if self._execution.is_query:  # recorded whole, where one is asked in a recorded chain
            return await call()
        return await self.effects.observe(name, request, call, result=result)

    def streamed_effect(self, name: str, request: Any) -> AbstractAsyncContextManager[StreamedEffect]:
        """The same as :meth:`effect` for what comes in pieces that are recorded as chunks of this very stream."""
        self._check("make an effect")
        return self.effects.streamed(name, request)

    @property
    def effects(self) -> Effects:
        if self._effects is None:
            self._effects = self._execution.router.effects_of(self._execution, self)
        return self._effects

    def now(self) -> datetime:
        """The time, recorded, so that a rerun sees the same."""
        self.check_open()
        return self.effects.now()

    @property
    def random(self) -> random.Random:
        """Randomness that comes out of the request's id: a rerun draws the same. Not for secrets."""
        if self._random is None:
            self._random = random.Random(self._execution.envelope.event_id)
        return self._random

    def view(self, view: type[View[R]]) -> ViewReader[R]:
        """Read a read model. In a recorded chain what was read is recorded too."""
        return self._execution.view(view)  # type: ignore[no-any-return]  # typed by the journal

    async def read_stream(
        self, stream: str, *, from_version: int = 1, backwards: bool = False, limit: int | None = None
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Events of one stream of the log. In a recorded chain it is noted that they were read, as with a view."""
        execution, branch = self._execution, self._execution.envelope.branch
        journal = execution.router.journal
        if (reads := execution.read_recorder()) is not None:
            reads.stream(stream, await journal.version(stream, branch=branch))
        events = journal.read_stream(stream, from_version=from_version, backwards=backwards, limit=limit, branch=branch)
        async for event in events:
            yield event

    def progress(self, **facts: Any) -> None:
        """Tell the connection that asked how far this is; nothing is recorded. Dropped where nobody listens."""
        channel = self.reply_channel
        if channel is not None:
            channel.push({"event": "event:progress", "data": facts, "correlation_id": self.correlation_id})

    # ── for the kernel ───────────────────────────────────────────────────────────────────────────────────────────────
    def buffer(self, entry: Entry) -> None:
        if self.entries is None:
            self.entries = []
        self.entries.append(entry)

    def _check(self, what: str) -> None:
        self.check_open()
        if self._execution.is_query:
            raise QueryWroteError(self._execution.envelope.name, what)

    def check_open(self) -> None:
        if self.is_closed:
            raise ContextClosedError(self._execution.envelope.name)


def require_main(context: EventContext, what: str) -> None:
    """Refuse a request of another branch where ``what`` it is about is followed on ``main`` only.

    Raises:
        UnsupportedError: It would be recorded there, and nobody would see it.
    """
    if context.branch != MAIN:
        raise UnsupportedError(f"{what} are those of {MAIN}: not on the branch {context.branch!r}")


def require(value: R | None, what: str, name: str) -> R:
    """``value``, or NotFoundError: for handlers that look something up."""
    if value is None:
        raise NotFoundError(what, name)
    return value
