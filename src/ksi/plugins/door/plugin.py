"""The events of doors. A door is open as long as the stream that opened it: the script's run.

The path of a door holds a token that only the script is given; the log and this plugin know its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from ksi.core import canonical, ids
from ksi.core.errors import ConflictError, NotFoundError, UnauthorizedError, UnsupportedError, ValidationError
from ksi.core.ports import EventLog
from ksi.kernel.context import EventContext
from ksi.kernel.declare import End, query, stream
from ksi.kernel.plugin import AsyncPlugin, Route
from ksi.kernel.router import Router
from ksi.plugins.door.capped import Unasked, added, with_fields, without_usage
from ksi.plugins.door.doors import Change, Door, RecordingDoor, ReplayDoor
from ksi.plugins.door.matching import Memory, Recorded, parse_ignored
from ksi.plugins.door.paid import Meter, paid_call
from ksi.plugins.door.past import calls_of, parts_of
from ksi.plugins.door.shapes import CALL, Asked, Digest, Diverged, Part, Upstreams
from ksi.plugins.references import find_run
from ksi.plugins.shapes import Place, position
from ksi.providers.base import Usage
from ksi.providers.budgets import Budgets

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ksi.plugins.door.upstream import Upstream

DIGEST = 32 * "ab"
"""That of no token, for examples."""
SCRIPT, ASK, SOURCE = "door:script", "door:ask", "door:source"
RunReference = Annotated[str, Meta(description="its id, a unique beginning of it or of one of its events, @1234, last")]
Ignore = Annotated[
    tuple[str, ...], Meta(description="parts of requests that do not count: $.metadata.time, $.messages[*].id")
]


PROVIDERS = Upstreams()


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The door is open; what comes through it is a part of ``run``."""

    run: str


class Closed(msgspec.Struct, frozen=True):
    """The script has ended with ``exit_code``. ``calls`` came through the door, ``served`` of them out of the log."""

    run: str
    exit_code: int
    calls: int
    served: int = 0


class Replayed(msgspec.Struct, frozen=True):
    """``left`` recorded calls were not asked for, ``divergences`` calls were none of the recorded ones."""

    run: str
    calls: int
    left: int
    divergences: int


class Source(msgspec.Struct, frozen=True):
    """Where an answer comes from: the recorded call ``served``, or upstream. ``asked`` is what is asked there."""

    served: str | None
    asked: Asked


class Answered(msgspec.Struct, frozen=True):
    """How a call ended."""

    served: str | None
    usage: Usage


class Doors(AsyncPlugin):
    """Serves unmodified scripts: records what they ask of models, replays it, and asks what if."""

    name = "door"

    async def initialize(self) -> None:
        self._log = self.host.services.get(EventLog)
        self._open: dict[str, Door] = {}
        self._upstream: Upstream | None = None

    async def shutdown(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()

    def routes(self) -> Iterable[Route]:
        return (Route(path="/r/{token}/{rest:path}", methods=(), app=self._serve, is_public=True),)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Here and not above: HTTP is loaded behind the first answer on the Unix socket.
        from ksi.plugins.door.serving import serve

        await serve(self, scope, receive, send)

    def door(self, token: str) -> Door:
        """The open door of a token. Raises UnauthorizedError."""
        door = self._open.get(hashlib.sha256(token.encode()).hexdigest())
        if door is None:
            raise UnauthorizedError("no script runs under this address any more")
        return door

    # ── doors ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @stream("door:record", on_crash="interrupted", errors=["conflict"], examples=[{"token_sha256": DIGEST}])
    async def record(
        self, token_sha256: Digest, context: EventContext, upstreams: Upstreams = PROVIDERS
    ) -> AsyncIterator[Opened | End[Closed]]:
        """Open a door for a script: what it asks goes upstream and is recorded, until ``door:close``."""
        door = self._recording(context, upstreams, Memory((), ()), None)
        async with aclosing(self._run(token_sha256, door, context)) as said:
            async for each in said:
                yield each

    @stream(
        "door:whatif",
        on_crash="interrupted",
        errors=["conflict", "not_found", "ambiguous"],
        examples=[{"token_sha256": DIGEST, "of": "last", "change": {"messages.0.content": "Tell me about rivers."}}],
    )
    async def whatif(
        self,
        token_sha256: Digest,
        of: RunReference,
        context: EventContext,
        at: Annotated[
            Place | None, Meta(description="where it goes upstream from; else from the first new call")
        ] = None,
        change: Annotated[dict[str, Any] | None, Meta(description="fields of that call, as messages.0.content")] = None,
        ignore: Ignore = (),
        upstreams: Upstreams = PROVIDERS,
    ) -> AsyncIterator[Opened | End[Closed]]:
        """The same, where what the run ``of`` asked before ``at`` is served out of the log, and the rest is paid."""
        run = await find_run(self._log, of, branch=context.branch, but=context.correlation_id)
        calls = await calls_of(self._log, run, branch=context.branch)
        before, changed = _split(calls, None if at is None else position(at), change)
        door = self._recording(context, upstreams, Memory(before, parse_ignored(ignore)), changed)
        async with aclosing(self._run(token_sha256, door, context)) as said:
            async for each in said:
                yield each

    @stream(
        "door:replay",
        record=False,
        errors=["conflict", "not_found", "ambiguous"],
        examples=[{"token_sha256": DIGEST, "run": "last"}],
    )
    async def replay(
        self, token_sha256: Digest, run: RunReference, context: EventContext, ignore: Ignore = ()
    ) -> AsyncIterator[Opened | Diverged | End[Replayed]]:
        """Open a door through which nothing goes: what a run asked is answered as it was. A cancel ends it.

        A request that is none of the recorded ones is refused, and told here.
        """
        found = await find_run(self._log, run, branch=context.branch)
        calls = await calls_of(self._log, found, branch=context.branch)
        door = ReplayDoor(self._router, found, Memory(calls, parse_ignored(ignore)), context.branch)
        with self._opened(token_sha256, door):
            yield Opened(found)
            try:
                while True:
                    yield await door.diverged.get()
            except asyncio.CancelledError:
                yield End(Replayed(found, door.calls, len(door.memory.left()), door.divergences))

    @query("door:close", errors=["not_found"], examples=[{"token_sha256": DIGEST, "exit_code": 0}])
    async def close(self, token_sha256: Digest, exit_code: int, context: EventContext) -> None:
        """Say that a script has ended."""
        door = self._open.get(token_sha256)
        if not isinstance(door, RecordingDoor) or door.principal != context.principal:
            raise NotFoundError("door", token_sha256)
        if not door.ended.done():
            door.ended.set_result(exit_code)

    def _recording(
        self, context: EventContext, upstreams: Upstreams, memory: Memory, change: Change | None
    ) -> RecordingDoor:
        return RecordingDoor(self._router, context.envelope, upstreams, memory, change)

    async def _run(
        self, digest: str, door: RecordingDoor, context: EventContext
    ) -> AsyncGenerator[Opened | End[Closed], None]:
        with self._opened(digest, door):
            yield Opened(context.correlation_id)
            closed = await context.effect(SCRIPT, {"door": digest}, lambda: _ended(door), result=Closed)
            yield End(closed)

    @contextmanager
    def _opened(self, digest: str, door: Door) -> Iterator[None]:
        if digest in self._open:
            raise ConflictError("a door has this token already")
        self._open[digest] = door
        try:
            yield
        finally:
            del self._open[digest]

    @property
    def _router(self) -> Router:
        return self.host.services.get(Router)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────
    @stream(
        CALL,
        on_crash="interrupted",
        errors=["budget_exceeded", "provider_overloaded", "stream_interrupted"],
        examples=[{"run": "last", "protocol": "openai", "method": "GET", "path": "/models"}],
    )
    async def call(self, asked: Asked, context: EventContext) -> AsyncIterator[Part | End[Answered]]:
        """One request of a script. It comes through a door only, which has the script's key."""
        source = await context.observe(SOURCE, {}, lambda: self._source(asked, context), result=Source)
        paid = None if source.served else paid_call(context.event_id, source.asked, context.principal)
        granted = None
        if paid is not None and (budgets := self._budgets) is not None:
            granted = await budgets.reserve(context, paid)
        meter, is_whole = Meter(source.asked, granted), False
        try:
            async with aclosing(self._parts(source, context, meter)) as parts:
                async for part in parts:
                    yield part
            is_whole = True
        finally:
            if granted is not None and not context.is_closed:
                assert self._budgets is not None  # it granted it
                self._budgets.settle(context, context.event_id, meter.usage(is_whole=is_whole))
        nothing = Usage(input_tokens=0, output_tokens=0)
        yield End(Answered(source.served, nothing if paid is None else meter.usage(is_whole=True)))

    async def _parts(self, source: Source, context: EventContext, meter: Meter) -> AsyncGenerator[Part, None]:
        """The answer as the script gets it; ``meter`` sees all of it."""
        fields, unasked = ({} if meter.granted is None else added(source.asked, meter.granted)), None
        async with context.streamed_effect(ASK, _named(source.asked, fields)) as effect:
            try:
                async with aclosing(effect.pieces(lambda: self._answer(source, context, fields), _again)) as parts:
                    async for part in parts:
                        if isinstance(part, Unasked):
                            unasked = part.text
                            meter.take(part.piece)
                        else:
                            meter.take(part)
                            yield part
            finally:
                effect.complete(unasked)

    @property
    def _budgets(self) -> Budgets | None:
        services = self.host.services
        return services.get(Budgets) if services.provider_of(Budgets) is not None else None

    async def _source(self, asked: Asked, context: EventContext) -> Source:
        door = self._door_of(context)
        recorded = door.memory.take(asked)
        if recorded is not None and (door.change is None or door.change.id != recorded.id):
            door.served += 1
            return Source(ids.text(recorded.id), asked)
        return Source(None, door.changed(asked, recorded))

    def _answer(
        self, source: Source, context: EventContext, fields: dict[str, Any]
    ) -> AsyncGenerator[Part | Unasked, None]:
        if source.served is not None:
            return parts_of(self._log, ids.parse(source.served), branch=context.branch)
        # Here and not above: httpx is loaded where something goes out.
        from ksi.plugins.door.upstream import Upstream

        if self._upstream is None:
            self._upstream = Upstream()
        door = self._door_of(context)
        unsaid = door.unsaid[context.envelope.event_id]
        parts = self._upstream.ask(with_fields(source.asked, fields), door.upstreams, unsaid)
        return without_usage(parts) if "stream_options" in fields else parts

    def _door_of(self, context: EventContext) -> RecordingDoor:
        call = context.envelope.event_id
        for door in self._open.values():
            if isinstance(door, RecordingDoor) and call in door.unsaid:
                return door
        raise UnsupportedError(f"{CALL} comes through a door only: ksi record")


async def _ended(door: RecordingDoor) -> Closed:
    exit_code = await door.ended
    return Closed(door.run, exit_code, door.calls, door.served)


def _split(
    calls: Sequence[Recorded], at: int | None, fields: Mapping[str, Any] | None
) -> tuple[Sequence[Recorded], Change | None]:
    """What is served, and what is changed. Raises ValidationError."""
    if at is None:
        if fields:
            raise ValidationError("at= says which call is to be changed")
        return calls, None
    before = [call for call in calls if call.position < at]
    if not fields:
        return before, None
    target = next((call for call in calls if call.position == at), None)
    if target is None:
        known = ", ".join(f"@{call.position}" for call in calls)
        raise ValidationError(f"@{at} is no call of the run; its calls are {known or 'none'}")
    return [*before, target], Change(target.id, fields)


def _named(asked: Asked, fields: dict[str, Any]) -> dict[str, Any]:
    """The effect's own request: the whole of it stands in that of the call, but for the ``fields`` that are added."""
    digest = canonical.digest(asked.body.text.encode()).hex()
    beside = {"is_beside": True} if asked.is_beside else {}
    more = {"added": fields} if fields else {}
    return {"method": asked.method, "path": asked.path, "query": asked.query, "body": digest, **beside, **more}


def _again(chunks: Sequence[Any], unasked: str | None) -> list[Part | Unasked]:
    parts: list[Part | Unasked] = [msgspec.convert(chunk, Part) for chunk in chunks]
    return parts if unasked is None else [*parts, Unasked(unasked)]
