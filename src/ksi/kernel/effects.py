"""Recorded effects: what touches the outside world is on disk before it happens, and its result right after it.

A recorded effect is found again by (run, causal path, name, hash of the canonical request, n-th occurrence of that
hash), never by its order of arrival, which differs from run to run under ``gather``. Where several handlers share an
event, each has a causal path of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from ksi.core import canonical
from ksi.core.clock import microseconds, utc
from ksi.core.envelope import EventEnvelope, path_of
from ksi.core.errors import InternalError, KSIError, OutcomeUnknownError, from_wire
from ksi.core.ports import EffectGateway, Entry, Unit
from ksi.kernel.foreign import FOREIGN, said_of

if TYPE_CHECKING:
    from ksi.kernel.context import EventContext
    from ksi.kernel.execution import Execution

EFFECTS = "$effects"
REQUESTED, COMPLETED, OBSERVED, READ = "effect:requested", "effect:completed", "effect:observed", "effect:read"
NOW = "context:now"
FROM_EARLIER = "kept"
"""Marks a completed effect as one that was not done again: the run that is repeated had its answer."""
T = TypeVar("T")
Key = tuple[str, str, str, int]
"""Causal path, name, hash of the request, n-th occurrence of it."""


class LiveEffects:
    """Implements :class:`~ksi.core.ports.EffectGateway`: all happens, but what may have happened before a crash."""

    def admit(self, request: EventEnvelope, effect: str, asked: bytes, *, begun: bool) -> None:
        if begun:
            raise OutcomeUnknownError(f"effect {effect!r}")

    def ends_here(self, request: EventEnvelope) -> bool:
        return False


class Recorded(msgspec.Struct):
    """Effects of a request as the log holds them: what began, how it ended, which requests it made, what it read.

    ``pieces`` are the chunks that were said while an effect was under way. What is served is taken out of ``ended``.
    """

    begun: set[Key] = msgspec.field(default_factory=set)
    ended: dict[Key, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    pieces: dict[Key, list[bytes]] = msgspec.field(default_factory=dict)
    requested: set[bytes] = msgspec.field(default_factory=set)
    reads: list[Mapping[str, Any]] = msgspec.field(default_factory=list)

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Take up one event of the stream ``$effects``."""
        if name == READ:
            self.reads += data["reads"]
            return
        key = (data["path"], data["effect"], data["hash"], data["n"])
        if name == REQUESTED:
            self.begun.add(key)
            self.pieces[key] = []
        else:
            self.ended[key] = data

    def note_chunk(self, raw: bytes) -> None:
        """Take up one chunk of the request's own stream."""
        for key, pieces in self.pieces.items():
            if key not in self.ended:
                pieces.append(raw)

    def take(self, key: Key) -> tuple[Mapping[str, Any] | None, bool]:
        """How it ended, and whether it began. It is asked for once."""
        begun = key in self.begun
        self.begun.discard(key)
        return self.ended.pop(key, None), begun

    def read_again(self, what: Any) -> Mapping[str, Any]:
        """The first read of ``what`` that was not asked for yet. Raises LookupError where there is none."""
        place = next((place for place, saved in enumerate(self.reads) if saved["what"] == what), None)
        if place is None:
            raise LookupError
        return self.reads.pop(place)


class Again(NamedTuple):
    """What the log holds of a streamed effect. ``end`` returns, raises, or waits for a cancel, as it did then."""

    chunks: Sequence[Any]
    value: Any
    end: Callable[[], Awaitable[None]]


class StreamedEffect:
    """An effect whose pieces become chunks of the stream; :meth:`complete` says how it ended.

    ::

        async with context.streamed_effect("llm:stream", request) as effect:
            async with aclosing(effect.pieces(ask, again)) as pieces:
                async for piece in pieces:
                    yield piece.text
            effect.complete({"usage": …})
    """

    __slots__ = ("_again", "_failed", "value")

    def __init__(self, again: Again | None, failed: Callable[[BaseException], KSIError]) -> None:
        self.value: Any = None
        self._again = again
        self._failed = failed

    async def pieces(
        self, call: Callable[[], AsyncGenerator[T, None]], again: Callable[[Sequence[Any], Any], Iterable[T]]
    ) -> AsyncGenerator[T, None]:
        """What ``call`` gives; or where it is recorded, the same once more.

        Args:
            call: Does it.
            again: Makes the pieces out of the chunks that the stream said meanwhile, and of what :meth:`complete` got
                (None where the effect did not come so far).
        """
        if self._again is None:
            try:
                async with aclosing(call()) as pieces:
                    async for piece in pieces:
                        yield piece
            except KSIError:
                raise
            except FOREIGN as error:
                raise self._failed(error) from error
            return
        for piece in again(self._again.chunks, self._again.value):
            yield piece
        await self._again.end()

    def complete(self, value: Any) -> None:
        """What is recorded as the result: usage, reason, not the pieces themselves."""
        self.value = value


class Effects:
    """The effects of one handler of one request."""

    def __init__(self, execution: Execution, context: EventContext, recorded: Recorded | None) -> None:
        self._execution = execution
        self._context = context
        self._path = path_of(execution.envelope, context.scope)
        self._recorded = recorded or Recorded()
        self._kept = execution.router.kept.get(execution.envelope.correlation_id) if execution.router.kept else None
        self._served: set[Key] = set()
        self._gateway = execution.router.services.get(EffectGateway)
        self._began_us: dict[Key, int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._times = 0

    async def run(
        self, name: str, request: Any, call: Callable[[], Awaitable[Any]], *, result: Any, idempotent: bool
    ) -> Any:
        """See :meth:`ksi.kernel.context.EventContext.effect`."""
        raw = canonical.encode(request)
        key = self._key(name, raw)
        ended, begun = self._recorded.take(key)
        if ended is not None:
            return _served(ended, result)
        await self._admit(name, raw, begun=begun and not idempotent)
        await self._begin(key, raw)
        if (kept := self._from_earlier_run(key)) is not None:
            await self._end(key, value=canonical.encode(kept["value"]))
            return _into(kept["value"], result)
        try:
            value = canonical.encode(await call())
        except KSIError as error:
            await self._end(key, error=error)
            raise
        except FOREIGN as error:
            await self._end(key, error=(failed := self._failed(name, error)))
            raise failed from error
        await self._end(key, value=value)
        return _into(canonical.decode(value), result)

    async def observe(self, name: str, request: Any, call: Callable[[], Awaitable[Any]], *, result: Any) -> Any:
        """See :meth:`ksi.kernel.context.EventContext.observe`."""
        raw = canonical.encode(request)
        key = self._key(name, raw)
        ended, _ = self._recorded.take(key)
        if ended is not None:
            return _served(ended, result)
        await self._admit(name, raw, begun=False)
        try:
            value = canonical.encode(await call())
        except KSIError as error:
            self._note_seen(key, error=error)
            raise
        except FOREIGN as error:
            self._note_seen(key, error=(failed := self._failed(name, error)))
            raise failed from error
        self._note_seen(key, value=value)
        return _into(canonical.decode(value), result)

    @asynccontextmanager
    async def streamed(self, name: str, request: Any) -> AsyncIterator[StreamedEffect]:
        """See :meth:`ksi.kernel.context.EventContext.streamed_effect`."""
        raw = canonical.encode(request)
        key = self._key(name, raw)
        ended, begun = self._recorded.take(key)
        if begun:
            if ended is None:
                self._gateway.admit(self._execution.envelope, name, raw, begun=True)
            yield StreamedEffect(self._again(key, ended), partial(self._failed, name))
            return
        await self._admit(name, raw, begun=False)
        await self._begin(key, raw)
        kept = self._from_earlier_run(key)
        again = None if kept is None else Again(self._chunks_of(key), kept["value"], _at_once)
        effect = StreamedEffect(again, partial(self._failed, name))
        try:
            yield effect
        except asyncio.CancelledError:
            self._note_end(key, value=canonical.encode(effect.value))
            raise
        except KSIError as error:
            self._note_end(key, error=error)
            raise
        self._note_end(key, value=canonical.encode(effect.value))

    def _failed(self, name: str, error: BaseException) -> InternalError:
        """What a handler gets for an error that is none of KSI's: the same that a rerun and a replay give it."""
        self._execution.router.log_failure(self._execution.row, error)
        return InternalError(f"effect {name!r}", said_of(error))

    def _from_earlier_run(self, key: Key) -> Mapping[str, Any] | None:
        """How the same ended well in the run that this one repeats with something changed."""
        ended = None if self._kept is None else self._kept.ended.get(key)
        if ended is None or not ended["ok"]:
            return None
        self._served.add(key)
        return ended

    def _chunks_of(self, key: Key) -> Sequence[Any]:
        return [canonical.decode(raw) for raw in self._kept.pieces.get(key, ())] if self._kept is not None else []

    def _again(self, key: Key, ended: Mapping[str, Any] | None) -> Again:
        """What is served of a streamed effect."""

        async def end() -> None:
            if ended is not None and not ended["ok"]:
                _served(ended, Any)
            await self._wait_where_it_ends()

        value = ended["value"] if ended is not None and ended["ok"] else None
        return Again([canonical.decode(raw) for raw in self._recorded.pieces[key]], value, end)

    async def _admit(self, name: str, raw: bytes, *, begun: bool) -> None:
        """Nothing is recorded of how it ended: it may happen now, or this raises, or waits for a cancel."""
        await self._wait_where_it_ends()
        self._gateway.admit(self._execution.envelope, name, raw, begun=begun)

    async def _wait_where_it_ends(self) -> None:
        if self._gateway.ends_here(self._execution.envelope):
            await self._execution.router.loop.create_future()

    def now(self) -> datetime:
        """The time, by the ordinal of the call. It has no commit of its own: it goes to disk with the next one."""
        self._times += 1
        key = (self._path, NOW, "", self._times)
        ended, _ = self._recorded.take(key)
        if ended is not None:
            return utc(ended["value"])
        envelope = self._execution.envelope
        if not self._gateway.ends_here(envelope):
            self._gateway.admit(envelope, key[1], b"null", begun=False)
        now = utc(self._execution.router.clock.time_us())
        self._note_seen(key, value=canonical.encode(microseconds(now)))
        return now

    def _key(self, name: str, raw: bytes) -> Key:
        digest = canonical.digest(raw).hex()
        self._counts[name, digest] += 1
        return self._path, name, digest, self._counts[name, digest]

    async def _begin(self, key: Key, raw: bytes) -> None:
        entries = take_entries(self._context, EFFECTS)
        entries.append(_entry(REQUESTED, {**self._facts(key), "request": msgspec.Raw(raw)}))
        await self._execution.written(Unit(origin=self._execution.envelope, entries=entries))
        self._context.check_open()
        if self._execution.measured is not None:
            self._began_us[key] = self._execution.measured.now()

    async def record_times(self) -> None:
        """Put on disk what :meth:`now` gave: what follows may be made of it, and a rerun must make the same."""
        entries = take_entries(self._context, EFFECTS)
        if entries:
            await self._execution.written(Unit(origin=self._execution.envelope, entries=entries))

    async def _end(self, key: Key, *, value: bytes = b"null", error: KSIError | None = None) -> None:
        entry = _entry(COMPLETED, self._result(key, value, error))
        await self._execution.written(Unit(origin=self._execution.envelope, entries=[entry]))

    def _note_end(self, key: Key, *, value: bytes = b"null", error: KSIError | None = None) -> None:
        """The same, on disk with the next commit of this request."""
        self._context.buffer(_entry(COMPLETED, self._result(key, value, error)))

    def _note_seen(self, key: Key, *, value: bytes = b"null", error: KSIError | None = None) -> None:
        """What was seen of the outside world, on disk with the next commit of this request."""
        self._context.buffer(_entry(OBSERVED, self._result(key, value, error)))

    def _result(self, key: Key, value: bytes, error: KSIError | None) -> dict[str, Any]:
        if self._execution.measured is not None and key in self._began_us:
            self._execution.measured.part(key[1], self._began_us.pop(key), error, goes_out=True)
        if error is not None:
            facts = {"code": error.code, "message": error.message, "details": error.details()}
            return {**self._facts(key), "ok": False, "error": facts}
        kept = {FROM_EARLIER: True} if key in self._served else {}
        return {**self._facts(key), "ok": True, "value": msgspec.Raw(value), **kept}

    @staticmethod
    def _facts(key: Key) -> dict[str, Any]:
        return {"effect": key[1], "path": key[0], "hash": key[2], "n": key[3]}


async def _at_once() -> None:
    """What ended well has nothing more to wait for."""


def take_entries(context: EventContext, stream: str) -> list[Entry]:
    """Of what ``context`` has buffered, the entries of ``stream``, taken out."""
    taken = [entry for entry in context.entries or () if entry.stream == stream]
    if taken:
        context.entries = [entry for entry in context.entries or () if entry.stream != stream]
    return taken


def _entry(name: str, data: Mapping[str, Any]) -> Entry:
    kind = "request" if name == REQUESTED else "outcome"
    return Entry(stream=EFFECTS, name=name, kind=kind, data=canonical.encode(data))  # type: ignore[arg-type]  # a literal


def _served(ended: Mapping[str, Any], result: Any) -> Any:
    if ended["ok"]:
        return _into(ended["value"], result)
    error = ended["error"]
    raise from_wire(error["code"], error["message"], error["details"])


def _into(value: Any, kind: Any) -> Any:
    return value if kind is Any else msgspec.convert(value, kind)
