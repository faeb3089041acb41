"""``async with context.transaction()``: several streams, emits and a checkpoint in one commit of their own."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ksi.core.envelope import EventEnvelope
from ksi.core.errors import ContextClosedError
from ksi.core.events import ANY, AppendCondition, ExpectedVersion, NewEvent, Position
from ksi.core.ports import Committed, Entry, Unit
from ksi.kernel.entries import encode, entry_of

if TYPE_CHECKING:
    from ksi.kernel.context import EventContext
    from ksi.kernel.writing import WritingRequest

_NOTHING: Mapping[str, Any] = {}


class Transaction:
    """The block only gathers; the commit is at its end, and awaited there. A block that raises commits nothing.

    At the end it raises what stood against it, and then nothing of it is on disk: WrongExpectedVersionError (which
    stream, which version), AppendConditionError (the conflicting position), CheckpointConflictError (where the
    subscriber is).
    """

    committed: Committed | None = None
    """Position, and versions of its facts in order, once the block has ended. A rerun finds there what was not yet."""

    def __init__(
        self,
        request: WritingRequest,
        context: EventContext,
        condition: AppendCondition | None,
        checkpoint: tuple[str, Position] | None,
    ) -> None:
        self._request = request
        self._context = context
        self._condition = condition
        self._checkpoint = checkpoint
        self._entries: list[Entry] = []
        self._emits: list[EventEnvelope] = []
        self._expected: dict[str, ExpectedVersion] = {}
        self._ended = False

    def append(
        self,
        stream: str,
        event: msgspec.Struct | NewEvent,
        *,
        expected_version: ExpectedVersion = ANY,
        tags: frozenset[str] = frozenset(),
        subject: str | None = None,
    ) -> None:
        """A fact in ``stream``, as :meth:`EventContext.append`. ``expected_version`` is that before the block."""
        self._check_open()
        if expected_version is not ANY:
            self._expected.setdefault(stream, expected_version)
        entry = entry_of(stream, event, tags, subject)
        entry.subject = entry.subject or self._request.envelope.subject
        self._entries.append(entry)

    def emit(self, name: str, data: Any = _NOTHING, /, **fields: Any) -> None:
        """A request without an answer, started after the commit, as :meth:`EventContext.emit`."""
        self._check_open()
        envelope = self._request.child(name, encode(data, fields), awaited=False, scope=self._context.scope)
        self._request.router.recorded.check(envelope)
        self._emits.append(envelope)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        if kind is None and (self._entries or self._emits or self._checkpoint is not None):
            self._context.check_open()
            self.committed = await self._request.written(self._unit())

    def _unit(self) -> Unit:
        return Unit(
            origin=self._request.envelope,
            entries=self._entries,
            emits=self._emits,
            expected=self._expected,
            condition=self._condition,
            checkpoint=self._checkpoint,
        )

    def _check_open(self) -> None:
        if self._ended:
            raise ContextClosedError(self._request.envelope.name)
        self._context.check_open()
